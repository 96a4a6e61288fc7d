"""The engine with the real encoders: texts and images, predicted and trained."""

import base64
import io

import pytest
from PIL import Image

from app.errors import ArtifactCorrupted, NotFound
from app.inference.engine import InferenceEngine
from app.inference.training import run_adapt, run_meta_train
from app.settings import Settings
from app.storage import Storage, make_storage
from learning.errors import Cancelled, IncompatibleDomain, InvalidOptions
from tests.app.adapted import adapted, encoded, table, table_outcome

TEXTS = ["a lovely film", "wonderful acting", "i enjoyed it", "a dull film", "terrible acting", "i hated it"]
LABELS = ["good"] * 3 + ["bad"] * 3


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return make_storage(Settings(data_dir=tmp_path_factory.mktemp("engine")))


@pytest.fixture(scope="module")
def engine(storage, tmp_path_factory) -> InferenceEngine:
    return InferenceEngine(Settings(data_dir=tmp_path_factory.mktemp("engine"), max_text_chars=200), storage)


@pytest.fixture(scope="module")
def text_model(engine, storage):
    return storage.put_bytes(adapted(engine, encoded("text", TEXTS, LABELS)).artifact)


def png(colour: str, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def image_model(engine, storage):
    images = [png(colour, size) for colour in ("red", "blue") for size in (40, 50, 60)]
    return storage.put_bytes(adapted(engine, encoded("image", images, ["warm"] * 3 + ["cold"] * 3)).artifact)


def test_predict_answers_texts(engine, text_model):
    answers = engine.predict(text_model, ["what a wonderful film", "terrible, i hated every minute"], explain=True)
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert answers[0]["evidence"][0]["label"] == "good"


def test_predict_puts_an_error_in_the_place_of_a_bad_text(engine, text_model):
    alone = engine.predict(text_model, ["a fine film"])
    answers = engine.predict(text_model, [3, "", " ", "x" * 201, "half \ud800", {"text": "x"}, "a fine film"])
    codes = ["wrong_type", "empty_text", "empty_text", "text_too_long", "invalid_text", "wrong_type"]
    assert [answer["error"]["code"] for answer in answers[:-1]] == codes
    assert answers[-1]["probability"] == pytest.approx(alone[0]["probability"], abs=1e-5)


def test_predict_answers_images_as_bytes_base64_and_data_url(engine, image_model):
    plain = base64.b64encode(png("blue")).decode()
    wrapped = "\n".join(plain[i : i + 60] for i in range(0, len(plain), 60))
    answers = engine.predict(image_model, [png("blue"), plain, wrapped, f"data:image/png;base64,{plain}"])
    assert {answer["label"] for answer in answers} == {"cold"}
    assert len({answer["probability"] for answer in answers}) == 1


def test_predict_puts_an_error_in_the_place_of_a_bad_image(engine, image_model):
    torn = base64.b64encode(png("red")[:60]).decode()
    bad = [1, "not base64!", "é", base64.b64encode(b"no image").decode(), torn, b"", "data:text/html,x"]
    answers = engine.predict(image_model, [*bad, png("red")])
    assert [answer.keys() for answer in answers[:-1]] == [{"error"}] * len(bad)
    assert answers[-1]["label"] == "warm"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_predict_looks_at_an_image_as_its_orientation_says(engine, image_model, kind):
    upright = Image.linear_gradient("L").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned, plain = io.BytesIO(), io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, kind, exif=exif)
    upright.save(plain, kind)
    first, second = engine.predict(image_model, [turned.getvalue(), plain.getvalue()])
    assert first["probability"] == pytest.approx(second["probability"], abs=1e-6)


def test_predict_examples_answers_every_row_and_keeps_the_features(engine, text_model):
    new = encoded("text", ["a superb film", "an awful film", "a superb film"], ["good", "bad", "good"])
    seen: list[tuple[int, int]] = []
    answers = engine.predict_examples(text_model, new, progress=lambda done, total: seen.append((done, total)))
    assert [answer["label"] for answer in answers] == ["good", "bad", "good"]
    assert seen == sorted(seen)
    assert seen[-1] == (3, 3)
    misses = engine.features.misses
    engine.predict_examples(text_model, new)
    assert engine.features.misses == misses


def test_predict_examples_refuses_a_dataset_of_another_modality(engine, text_model):
    with pytest.raises(IncompatibleDomain, match="takes text"):
        engine.predict_examples(text_model, table())


def test_predict_examples_answers_a_table(engine, storage):
    answers = engine.predict_examples(storage.put_bytes(table_outcome().artifact), table())
    assert [answer["label"] for answer in answers] == ["small"] * 6 + ["big"] * 6


def test_predict_raises_when_the_artifact_is_unknown(engine):
    with pytest.raises(NotFound):
        engine.predict("0" * 64, ["x"])


def test_predict_tells_a_stored_file_that_is_no_model(engine, storage):
    with pytest.raises(ArtifactCorrupted, match="cannot be read"):
        engine.predict(storage.put_bytes(b"something else"), ["x"])


def test_adaptation_tells_a_stored_meta_learner_that_is_none(engine):
    with pytest.raises(ArtifactCorrupted, match="cannot be read"):
        run_adapt(
            engine, target=("ds", table()), sources=[], strategy="init", options={}, meta_learner=b"something else",
            seed=0, progress=lambda _fraction, _phase: None,
        )  # fmt: skip


def test_second_adaptation_encodes_nothing_and_gives_the_same_bytes(engine):
    examples = encoded("text", [f"{text} indeed" for text in TEXTS], LABELS)
    first = adapted(engine, examples)
    misses = engine.features.misses
    assert adapted(engine, examples).artifact == first.artifact
    assert engine.features.misses == misses
    assert first.encoder == "minilm-l6-v2"
    assert first.report["timing"].keys() == {"encode_s", "fit_s", "total_s"}


def test_adaptation_reports_progress_from_encoding_to_the_end(engine):
    seen: list[tuple[float, str]] = []
    run_adapt(
        engine,
        target=("ds_t", encoded("text", [f"{text}!" for text in TEXTS], LABELS)),
        sources=[],
        strategy="target_only",
        options={},
        meta_learner=None,
        seed=0,
        progress=lambda fraction, phase: seen.append((fraction, phase)),
    )
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert seen[0] == (0.0, "encoding")
    assert 0.9 < fractions[-1] <= 1.0


def test_adaptation_stops_when_progress_raises(engine):
    def cancel(_fraction: float, _phase: str) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        run_adapt(
            engine,
            target=("ds_t", table()),
            sources=[],
            strategy="target_only",
            options={},
            meta_learner=None,
            seed=0,
            progress=cancel,
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"encoder": "minilm-l6-v2"}, "is for text"),
        ({"encoder": "hf:/etc"}, "is for text"),
        ({"encoder": "nope"}, "unknown encoder"),
        ({"coverage": 2}, "coverage"),
        ({"nope": 1}, "nope"),
    ],
)
def test_adaptation_refuses_an_option_that_is_impossible(engine, options, match):
    with pytest.raises(InvalidOptions, match=match):
        adapted(engine, table(), **options)


def test_adaptation_refuses_an_encoder_the_operator_did_not_name(engine):
    with pytest.raises(InvalidOptions, match="not enabled"):
        adapted(engine, encoded("text", TEXTS, LABELS), encoder="hf:some/model")


def test_adaptation_refuses_sources_of_another_task(engine):
    with pytest.raises(IncompatibleDomain, match="tabular regression"):
        run_adapt(
            engine,
            target=("ds_t", table()),
            sources=[("ds_s", table("regression"))],
            strategy="auto",
            options={},
            meta_learner=None,
            seed=0,
            progress=lambda _fraction, _phase: None,
        )


def test_meta_learner_is_trained_and_used_for_an_adaptation(engine):
    sources = [("ds_a", table()), ("ds_b", table())]
    options = {"steps": 2, "episodes_per_step": 2, "evaluation_episodes": 4, "evaluation_shots": [1]}
    meta = run_meta_train(engine, sources=sources, options=options, seed=0, progress=lambda _f, _p: None)
    assert meta.encoder == "quantile"
    assert meta.card["timing"]["total_s"] > 0
    outcome = run_adapt(
        engine,
        target=("ds_t", table()),
        sources=sources,
        strategy="init",
        options={},
        meta_learner=meta.artifact,
        seed=0,
        progress=lambda _f, _p: None,
    )
    assert outcome.strategy == "init"


def test_meta_learner_of_another_encoder_is_refused(engine):
    sources = [("ds_a", table()), ("ds_b", table())]
    options = {"steps": 0, "episodes_per_step": 2, "evaluation_episodes": 4, "evaluation_shots": [1]}
    meta = run_meta_train(engine, sources=sources, options=options, seed=0, progress=lambda _f, _p: None)
    with pytest.raises(IncompatibleDomain, match="meta-learner was trained on quantile"):
        run_adapt(
            engine,
            target=("ds_t", encoded("text", TEXTS, LABELS)),
            sources=[],
            strategy="init",
            options={"encoder": "minilm-l6-v2"},
            meta_learner=meta.artifact,
            seed=0,
            progress=lambda _f, _p: None,
        )
