"""The models that are served: peers get the very weights, copies have weights of their own, inputs never come twice."""

import base64
import csv
import io
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from app.datasets.examples import Examples
from app.inference.engine import InferenceEngine
from app.inference.training import AdaptOutcome
from app.settings import Settings
from app.storage import make_storage
from benchmarks.serving import inputs, metagraft
from benchmarks.serving.exporting import export
from benchmarks.serving.metagraft import Home, varied
from benchmarks.serving.peers.served import TabularModel, load, load_all
from learning.artifact import dump_learner, load_learner
from learning.encoders.columns import table_from_columns
from tests.app.adapted import adapted, key_of, publish, services_of, table_outcome


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """Where a home has it."""
    path = tmp_path / "data" / "metagraft.db"
    path.parent.mkdir()
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> AdaptOutcome:
    """A linear head on the benchmark's table."""
    rows = list(csv.DictReader(io.StringIO(inputs.table(4, rows=24).content.decode())))
    names = [name for name in rows[0] if name != "label"]
    examples = Examples(
        modality="tabular",
        task="classification",
        inputs={name: [float(row[name]) for row in rows] for name in names},
        column_kinds=dict.fromkeys(names, "numeric"),
        labels=[row["label"] for row in rows],
        keys=[key_of(str(row)) for row in rows],
    )
    settings = Settings(data_dir=tmp_path_factory.mktemp("engine"))
    return adapted(InferenceEngine(settings, make_storage(settings)), examples, **metagraft.OPTIONS["tabular"])


def test_exported_model_answers_as_the_learner_does(outcome, tmp_path) -> None:
    learner = load_learner(outcome.artifact)
    model = load(export(learner, tmp_path / "table"))
    assert isinstance(model, TabularModel)
    rows = list(islice(inputs.table(4).distinct(0), 40))
    columns = {name: [row[name] for row in rows] for name in model.columns}  # type: ignore[index]
    answers = learner.predict(table_from_columns(columns, dict.fromkeys(columns, "numeric")))
    found = model.predict([[row[name] for name in model.columns] for row in rows])  # type: ignore[index]
    assert answers.probs_QC is not None
    probability_Q, best_Q = answers.probs_QC.max(1)
    assert [answer["label"] for answer in found] == [learner.classes[best] for best in best_Q.tolist()]
    assert [answer["probability"] for answer in found] == pytest.approx(probability_Q.tolist(), abs=1e-4)


def test_models_of_a_folder_go_by_the_names_of_their_own(outcome, tmp_path) -> None:
    for name in ("a", "b"):
        export(load_learner(outcome.artifact), tmp_path / name)
    assert list(load_all(tmp_path)) == ["a", "b"]


def test_model_of_more_than_a_linear_head_is_not_exported(tmp_path) -> None:
    with pytest.raises(ValueError, match="stands before the head"):
        export(load_learner(table_outcome().artifact), tmp_path)


def test_varied_learner_has_weights_of_its_own_and_the_same_for_a_seed(outcome) -> None:
    learner = load_learner(outcome.artifact)
    first, again, second = (dump_learner(varied(learner, seed)) for seed in (1, 1, 2))
    assert first == again
    assert len({first, second, outcome.artifact}) == 3
    assert load_learner(first).classes == learner.classes


def test_copies_answer_under_their_own_names(client, tmp_path, outcome) -> None:
    publish(services_of(client), "table", outcome)
    names = metagraft.multiply(Home(folder=tmp_path, key=""), "table", 3, grafted=False)
    row = inputs.table(4).pool[0]
    answers = [client.post(f"/v1/models/{name}/predict", json={"inputs": [row]}) for name in names]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["model"] for answer in answers] == names
    probabilities = {answer.json()["predictions"][0]["probability"] for answer in answers}
    assert len(probabilities) == 3


@pytest.mark.parametrize("modality", inputs.MODALITIES)
def test_inputs_never_come_twice(modality, tmp_path) -> None:
    found = inputs.material(modality, tmp_path)  # a folder without data: made up
    few = len(found.pool) + 5
    drawn = [str(value) for seed in (0, 1) for value in islice(found.distinct(seed), few)]
    assert len(set(drawn)) == 2 * few


def test_marked_image_is_still_the_image(tmp_path) -> None:
    found = inputs.material("image", tmp_path)
    originals = {_pixels(str(value)) for value in found.pool}
    assert all(_pixels(str(value)) in originals for value in islice(found.distinct(3), 10))


def _pixels(encoded: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(encoded))).tobytes()
