"""Base learners as ONNX graphs: they answer as the learners do."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor

from learning.adaptation import adapt
from learning.base_learner import BaseLearner
from learning.config import STRATEGIES
from learning.encoders.tabular import QuantileFeaturiser
from learning.featurisers import Centring
from learning.meta import MetaLearner
from learning.onnx.answers_graph import answers_graph
from learning.types import Domain, FittedFeaturiser, LabelledSet, Task
from tests.learning.problems import blobs, quick_meta_learner, run, slopes, sources
from tests.learning.test_stacking import checkerboard


@pytest.fixture(scope="module")
def meta_learners() -> dict[str, MetaLearner]:
    return {"classification": quick_meta_learner(), "regression": quick_meta_learner("regression")}


def target(task: Task, seed: int) -> LabelledSet:
    return blobs(seed, 6) if task == "classification" else slopes(seed, 20)


def assert_answers_alike(learner: BaseLearner, queries: LabelledSet) -> None:
    answers = learner.predict(queries.inputs)
    rows = learner.pipeline.featuriser.read(queries.inputs).numpy()
    model = answers_graph(learner)
    onnx.checker.check_model(model)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for part in (rows, rows[:1]):
        found = dict(zip(names, session.run(None, {"features": part}), strict=True))
        expected: dict[str, Tensor | None] = {
            "probabilities": answers.probs_QC, "prediction_set": answers.sets_QC, "value": answers.values_Q,
            "interval": answers.intervals_Q2, "ood_score": answers.ood_Q, "abstain": answers.abstain_Q,
        }  # fmt: skip
        for name, tensor in expected.items():
            assert (name in found) == (tensor is not None)
            if tensor is not None:
                np.testing.assert_allclose(found[name], tensor[: len(part)].numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_answers_graph_answers_as_the_learner_of_encoded_rows(strategy, task, meta_learners):
    fitted = run(strategy, target(task, 50), using=sources(task), meta_learner=meta_learners[task])
    assert_answers_alike(fitted.learner, target(task, 51))


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_answers_graph_answers_as_the_learner_of_a_table(strategy, task):
    using = [Domain(name=f"s{seed}", data=checkerboard(40, seed, task)) for seed in (1, 2)]
    fitted = adapt(
        target=Domain(name="t", data=checkerboard(24, 0, task)), sources=using, featuriser=QuantileFeaturiser(),
        modality="tabular", encoder="quantile", encoder_revision="", columns={}, strategy=strategy,
        options=STRATEGIES[strategy](), meta_learner=None, seed=0, progress=lambda _f, _p: None,
    )  # fmt: skip
    assert_answers_alike(fitted.learner, checkerboard(30, 9, task))


def test_answers_graph_has_no_intervals_when_the_support_is_too_small_for_them():
    learner = run("target_only", slopes(3, 20)).learner
    bare = replace(learner, held_out_heads=None, interval_half_width=float("inf"))
    assert_answers_alike(bare, slopes(4, 5))


def test_answers_graph_keeps_directions_and_fourier_features_when_the_featuriser_has_them():
    for fitted, queries in _with_featurisers():
        assert_answers_alike(fitted, queries)


def _with_featurisers() -> list[tuple[BaseLearner, LabelledSet]]:
    texts, table = run("target_only", blobs(3, 20)).learner, checkerboard(24, 0)
    narrow = Centring(max_width=5).fit([blobs(3, 20).inputs])
    waves = QuantileFeaturiser(random_fourier=8).fit([table.inputs])
    made: list[tuple[FittedFeaturiser, LabelledSet]] = [(narrow, blobs(4, 3)), (waves, checkerboard(9, 1))]
    learners = []
    for featuriser, queries in made:
        rows_NF = featuriser.transform(queries.inputs)
        head = replace(
            texts.pipeline.head,
            weight_TF=torch.randn(3, featuriser.width, generator=torch.Generator().manual_seed(0)).double(),
        )
        pipeline = replace(texts.pipeline, featuriser=featuriser, head=head, parameters=None)
        familiarity = replace(texts.familiarity, reference_NF=rows_NF[:4] + 0.1)
        learners.append((replace(texts, pipeline=pipeline, familiarity=familiarity), queries))
    return learners
