"""Many adapted models over one encoder: every answer is the one its own model gives alone."""

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import DeadlineExceeded, NotFound, Overloaded
from app.inference.engine import InferenceEngine
from app.inference.serving import Question, Serving
from app.settings import Settings
from app.storage import Storage, make_storage
from learning.artifact import dump_learner, load_learner
from learning.base_learner import BaseLearner
from learning.grafts import Graft
from learning.mixing import FlatGraft
from tests.app.adapted import adapted, encoded, table_outcome

TEXTS = ["a lovely film", "wonderful acting", "i enjoyed it", "a dull film", "terrible acting", "i hated it"]
LABELS = ["good"] * 3 + ["bad"] * 3
QUERIES = ["a film", "what a wonderful film this was, from the first minute to the last", "dull", "x"]
N_MODELS = 6


def varied(learner: BaseLearner, seed: int, points: dict[str, torch.Tensor]) -> BaseLearner:
    """Another model of the same kind: other head, other graft."""
    generator = torch.Generator().manual_seed(seed)
    graft = None
    if seed % 3:
        graft = Graft(
            offsets={name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in points.items()}
        ).stored()
    pipeline, head = learner.pipeline, learner.pipeline.head
    weight_TF = head.weight_TF + 0.1 * torch.randn(head.weight_TF.shape, generator=generator).double()
    featuriser = replace(pipeline.featuriser, graft="" if graft is None else graft.digest)  # type: ignore[type-var]
    return replace(
        learner,
        graft=graft,
        statistics=None,
        pipeline=replace(
            pipeline, featuriser=featuriser, head=replace(head, weight_TF=weight_TF.float().double())
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return make_storage(Settings(data_dir=tmp_path_factory.mktemp("serving")))


@pytest.fixture(scope="module")
def engine(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceEngine]:
    made = InferenceEngine(Settings(data_dir=tmp_path_factory.mktemp("serving"), recent_features_bytes=0), storage)
    yield made
    made.close()


@pytest.fixture(scope="module")
def models(engine: InferenceEngine, storage: Storage) -> list[str]:
    """Artifacts of text models, every third of them without a graft."""
    learner = load_learner(adapted(engine, encoded("text", TEXTS, LABELS)).artifact)
    points = engine.encoders.points(learner.encoder)
    return [storage.put_bytes(dump_learner(varied(learner, seed, points))) for seed in range(N_MODELS)]


@pytest.fixture(scope="module")
def alone(engine: InferenceEngine, models: list[str]) -> dict[tuple[int, str], dict[str, Any]]:
    """What each model says to each query when nothing else is asked."""
    return {
        (place, query): engine.predict(artifact, [query])[0]
        for place, artifact in enumerate(models)
        for query in QUERIES
    }


def assert_same(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    assert answer["label"] == expected["label"]
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert answer["ood_score"] == pytest.approx(expected["ood_score"], abs=1e-4)


def test_models_do_differ(models: list[str], alone: dict[tuple[int, str], dict[str, Any]]) -> None:
    for query in QUERIES:
        said = [alone[place, query]["probabilities"]["good"] for place in range(len(models))]
        assert min(abs(a - b) for i, a in enumerate(said) for b in said[:i]) > 1e-4


questions = st.tuples(st.integers(0, N_MODELS - 1), st.lists(st.sampled_from(QUERIES), min_size=1, max_size=5))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mix=st.lists(questions, min_size=1, max_size=12))
def test_any_mix_of_calls_is_answered_as_each_alone(
    engine: InferenceEngine, models: list[str], alone: dict[tuple[int, str], dict[str, Any]],
    mix: list[tuple[int, list[str]]],
) -> None:  # fmt: skip
    async def ask() -> list[list[dict[str, Any]]]:
        calls = [engine.serving.answer(models[place], Question(inputs=texts)) for place, texts in mix]
        return await asyncio.gather(*calls)

    for (place, texts), answers in zip(mix, asyncio.run(ask()), strict=True):
        assert len(answers) == len(texts)
        for query, answer in zip(texts, answers, strict=True):
            assert_same(answer, alone[place, query])


def test_bad_input_in_a_mix_has_an_error_in_its_place_and_disturbs_nobody(
    engine: InferenceEngine, models: list[str], alone: dict[tuple[int, str], dict[str, Any]]
) -> None:
    async def ask() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        serving = engine.serving
        bad = serving.answer(models[0], Question(inputs=[3, "dull", " "]))
        return await asyncio.gather(bad, serving.answer(models[1], Question(inputs=["dull"])))

    first, second = asyncio.run(ask())
    assert [answer["error"]["code"] for answer in (first[0], first[2])] == ["wrong_type", "empty_text"]
    assert_same(first[1], alone[0, "dull"])
    assert_same(second[0], alone[1, "dull"])


def test_call_of_bad_inputs_only_is_answered_without_an_encoder(engine: InferenceEngine, models: list[str]) -> None:
    rows = engine.meter.totals().get("minilm-l6-v2", (0, 0.0))[0]
    assert ["error" in answer for answer in engine.predict(models[0], ["", 3])] == [True, True]
    assert engine.meter.totals().get("minilm-l6-v2", (0, 0.0))[0] == rows


def test_input_that_comes_again_is_not_encoded_again(storage: Storage, models: list[str], tmp_path: Any) -> None:
    engine = InferenceEngine(Settings(data_dir=tmp_path), storage)
    first = engine.predict(models[1], ["a film", "dull", "a film"])
    assert engine.meter.totals()["minilm-l6-v2"][0] == 2
    assert engine.predict(models[1], ["dull", "a film"]) == [first[1], first[0]]
    assert engine.meter.totals()["minilm-l6-v2"][0] == 2
    engine.predict(models[2], ["a film"])  # another graft has other features
    assert engine.meter.totals()["minilm-l6-v2"][0] == 3
    engine.close()


def test_half_precision_answers_nearly_the_same(
    storage: Storage, models: list[str], alone: dict[tuple[int, str], dict[str, Any]], tmp_path: Any
) -> None:
    half = InferenceEngine(Settings(data_dir=tmp_path, serving_precision="bf16", recent_features_bytes=0), storage)
    gaps = []
    for place, artifact in enumerate(models):
        for query, answer in zip(QUERIES, half.predict(artifact, QUERIES), strict=True):
            expected = alone[place, query]["probabilities"]
            gaps += [abs(answer["probabilities"][name] - expected[name]) for name in expected]
    half.close()
    assert 0 < max(gaps) < 0.02


# --- an encoder that is slow, or fails -------------------------------------------------------------------------------


class Slow:
    """An encoder that waits to be let through, and fails on one word."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.entered = threading.Semaphore(0)
        self.passes = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_mixed(self, ready: Sequence[Any], grafts: Sequence[FlatGraft | None]) -> torch.Tensor:
        self.entered.release()
        assert self.passes.wait(90)
        features = self._encoder.encode_mixed(ready, grafts)
        poison = self._encoder.ready(["poison"])[0]
        return torch.stack(
            [row * (float("nan") if tokens == poison else 1) for tokens, row in zip(ready, features, strict=True)]
        )


@pytest.fixture
def slow(engine: InferenceEngine, storage: Storage, tmp_path: Any) -> Iterator[tuple[Serving, Slow]]:
    limits = Settings(data_dir=tmp_path, queue_limit=4, deadline_seconds=90, recent_features_bytes=0)
    own = InferenceEngine(limits, storage)
    held = Slow(engine.encoders.get("minilm-l6-v2"))
    own.encoders._loaded["minilm-l6-v2"] = held
    yield own.serving, held
    held.passes.set()
    own.close()


async def waiting_rows(serving: Serving, n_rows: int) -> None:
    """Returns once so many rows wait."""
    for _ in range(9_000):
        if serving.batchers["minilm-l6-v2"].n_waiting >= n_rows:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the rows never came")


async def begun(serving: Serving, held: Slow, artifact: str) -> "asyncio.Task[Any]":
    task = asyncio.ensure_future(serving.answer(artifact, Question(inputs=["a film"])))
    assert await asyncio.to_thread(held.entered.acquire, timeout=90)
    return task


def test_input_without_finite_features_fails_alone(slow: tuple[Serving, Slow], models: list[str]) -> None:
    serving, held = slow
    held.passes.set()
    answers = serving.predict(models[0], Question(inputs=["a film", "poison", "dull"]))
    assert answers[1]["error"]["code"] == "non_finite_features"
    assert [set(answers[i]) & {"label"} for i in (0, 2)] == [{"label"}] * 2


def test_full_queue_is_overloaded_and_late_answer_is_past_its_deadline(
    slow: tuple[Serving, Slow], models: list[str]
) -> None:
    serving, held = slow

    async def scenario() -> None:
        first = await begun(serving, held, models[0])
        waiting = asyncio.ensure_future(serving.answer(models[1], Question(inputs=["a", "b", "c"])))
        await waiting_rows(serving, 3)
        with pytest.raises(Overloaded):
            await serving.answer(models[2], Question(inputs=["d", "e"]))
        serving.settings = serving.settings.model_copy(update={"deadline_seconds": 0.05})
        with pytest.raises(DeadlineExceeded):
            await serving.answer(models[2], Question(inputs=["d"]))
        held.passes.set()
        assert len(await first) == 1
        assert len(await waiting) == 3

    asyncio.run(scenario())


def test_caller_that_left_is_never_encoded(slow: tuple[Serving, Slow], models: list[str]) -> None:
    serving, held = slow

    async def scenario() -> None:
        first = await begun(serving, held, models[0])
        left = asyncio.ensure_future(serving.answer(models[1], Question(inputs=["never"])))
        await waiting_rows(serving, 1)
        left.cancel()
        held.passes.set()
        await first
        await serving.answer(models[1], Question(inputs=["after"]))

    asyncio.run(scenario())
    assert serving.meter.totals()["minilm-l6-v2"][0] == 2


def test_one_of_two_who_wait_for_a_model_may_leave(storage: Storage, models: list[str], tmp_path: Any) -> None:
    own = InferenceEngine(Settings(data_dir=tmp_path), storage)
    table = storage.put_bytes(table_outcome().artifact)
    entered, passes = threading.Event(), threading.Event()
    load = own.serving.models._load

    def held(artifact: str) -> Any:
        entered.set()
        assert passes.wait(90)
        return load(artifact)

    own.serving.models._load = held

    async def scenario() -> None:
        question = Question(inputs=[{"size": 1.0}])
        left, stays = (asyncio.ensure_future(own.serving.answer(table, question)) for _ in range(2))
        await asyncio.to_thread(entered.wait, 90)
        left.cancel()
        await asyncio.sleep(0)
        passes.set()
        assert (await stays)[0]["label"] == "small"

    asyncio.run(scenario())
    own.close()


def test_unknown_artifact_is_not_found(engine: InferenceEngine) -> None:
    with pytest.raises(NotFound):
        asyncio.run(engine.serving.answer("0" * 64, Question(inputs=["x"])))


# --- never an answer of another model --------------------------------------------------------------------------------

REQUESTS, CLIENTS, SOAKED, KEPT = 100_000, 100, 200, 20


class Stub:
    """An encoder that costs nothing: one of two known rows for each text, and a note of every graft that is not its."""

    modality, width = "text", 384

    def __init__(self, encoder: Any, digests: list[str]) -> None:
        self.name, self.revision = encoder.name, encoder.revision
        self.wrong_grafts = 0
        self._digests = digests
        self._rows = {sign: encoder.encode([text])[0] for sign, text in (("+", TEXTS[0]), ("-", TEXTS[3]))}

    def graft_points(self) -> dict[str, torch.Tensor]:
        return {"scale": torch.ones(3)}

    def ready(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)

    def size_of(self, ready: str) -> int:
        return len(ready)

    def encode_mixed(self, ready: Sequence[str], grafts: Sequence[FlatGraft | None]) -> torch.Tensor:
        for text, graft in zip(ready, grafts, strict=True):
            assert graft is not None
            self.wrong_grafts += graft.digest != self._digests[int(text[1:])]
        return torch.stack([self._rows[text[0]] for text in ready])


def numbered(learner: BaseLearner, number: int) -> BaseLearner:
    """A model whose labels and whose graft say which it is."""
    graft = Graft(offsets={"scale": torch.tensor([1.0, 2.0, number])}).stored()
    featuriser = replace(learner.pipeline.featuriser, graft=graft.digest)  # type: ignore[type-var]
    return replace(
        learner,
        classes=tuple(f"{name} {number:03}" for name in learner.classes),
        support_labels=tuple(f"{label} {number:03}" for label in learner.support_labels),
        statistics=None,
        graft=graft,
        pipeline=replace(learner.pipeline, featuriser=featuriser),
    )


def test_no_answer_is_of_another_model_in_a_hundred_thousand(
    engine: InferenceEngine, storage: Storage, tmp_path: Any
) -> None:
    learner = load_learner(adapted(engine, encoded("text", TEXTS, LABELS)).artifact)
    numbers = [numbered(learner, number) for number in range(SOAKED)]
    artifacts = [storage.put_bytes(dump_learner(one)) for one in numbers]
    stub = Stub(engine.encoders.get(learner.encoder), [one.graft.digest for one in numbers if one.graft])
    own = InferenceEngine(Settings(data_dir=tmp_path, recent_features_bytes=0), storage)
    own.encoders._loaded[learner.encoder] = stub  # type: ignore[assignment]
    models = own.serving.models
    models._max_bytes = KEPT * models.get(artifacts[0]).n_bytes + 1_000
    chooser = random.Random(0)
    wrong = 0

    async def client() -> None:
        nonlocal wrong
        for _ in range(REQUESTS // CLIENTS):
            # Most ask for the popular ones, and some for any.
            number = (
                min(int(chooser.expovariate(0.15)), SOAKED - 1)
                if chooser.random() < 0.97
                else chooser.randrange(SOAKED)
            )
            sign, name = chooser.choice((("+", "good"), ("-", "bad")))
            model = models.peek(artifacts[number])
            question = Question(inputs=[f"{sign}{number}"], top_k=1)
            (answer,) = await own.serving.answer(model or artifacts[number], question)
            wrong += answer["label"] != f"{name} {number:03}"

    async def soak() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    asyncio.run(soak())
    own.close()
    assert (wrong, stub.wrong_grafts) == (0, 0)
    assert len(models) <= KEPT
    assert models.misses > SOAKED


def test_threads_of_serving_compute_alone_when_they_only_read_and_load(engine: InferenceEngine) -> None:
    assert engine.serving._readers.submit(torch.get_num_threads).result() == 1
    assert engine.serving.models._loaders.submit(torch.get_num_threads).result() == 1
