"""Adding examples and classes by sufficient statistics, against refits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from learning.artifact import dump_learner, load_learner
from learning.base_learner import BaseLearner
from learning.errors import InvalidData
from learning.extension import extended
from learning.heads import LinearHead, fit_ridge, one_hot
from learning.sources import label_scale
from learning.statistics import RidgeProblem, RidgeStatistics, ridge_statistics
from learning.support_head import in_label_units
from learning.types import Features, LabelledSet
from tests.learning.problems import CLASSES, blobs, features, run, slopes, sources


def problem(n_rows: int, width: int, n_classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_rows)
    rows = torch.randn(n_rows, width, generator=generator).double()
    weights = 0.1 + torch.rand(n_rows, generator=generator).double()
    return rows, torch.arange(n_rows) % n_classes, weights


def statistics_of(rows: Tensor, targets: Tensor, weights: Tensor, scale: float = 1.0) -> RidgeStatistics:
    return ridge_statistics(
        RidgeProblem(
            features_NF=rows,
            targets_NT=targets,
            weights_N=weights,
            n_support=len(rows),
            regularisation=0.3,
            output_scale=scale,
        ),
        regression=targets.shape[1] == 1,
    )


def assert_equal(first: LinearHead, second: LinearHead, scale: float = 1.0) -> None:
    assert torch.allclose(first.weight_TF, scale * second.weight_TF, atol=1e-5, rtol=0)
    assert torch.allclose(first.bias_T, scale * second.bias_T, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n_rows", "width"), [(12, 384), (700, 384), (700, 8)], ids=["rows", "gram", "narrow gram"])
def test_head_of_statistics_equals_the_weighted_fit(n_rows: int, width: int) -> None:
    rows, labels, weights = problem(n_rows, width)
    fit = fit_ridge(rows, one_hot(labels, 3), regularisation=0.3, weights_S=weights)
    found = statistics_of(rows, one_hot(labels, 3), weights, scale=4.0)
    assert found.keeps_rows == (n_rows == 12)
    assert_equal(found.head(), fit.head, scale=4.0)


@pytest.mark.parametrize(("n_old", "n_new"), [(9, 6), (250, 200), (500, 30)], ids=["rows", "rows to gram", "gram"])
def test_added_examples_equal_a_refit(n_old: int, n_new: int) -> None:
    rows, labels, weights = problem(n_old + n_new, 20)
    weights[n_old:] = 1
    targets = one_hot(labels, 3)
    found = statistics_of(rows[:n_old], targets[:n_old], weights[:n_old])
    found = found.with_examples(rows[n_old:], targets[n_old:])
    assert_equal(found.head(), fit_ridge(rows, targets, regularisation=0.3, weights_S=weights).head)


@pytest.mark.parametrize(("n_old", "n_new"), [(9, 6), (500, 30)], ids=["rows", "gram"])
def test_added_class_equals_a_refit(n_old: int, n_new: int) -> None:
    rows, labels, weights = problem(n_old + n_new, 20)
    labels[:n_old] = labels[:n_old] % 2 * 2
    weights[n_old:] = 1
    old = one_hot(labels, 3)[:n_old][:, [0, 2]]
    found = statistics_of(rows[:n_old], old, weights[:n_old]).with_class(1)
    found = found.with_examples(rows[n_old:], one_hot(labels, 3)[n_old:])
    assert_equal(found.head(), fit_ridge(rows, one_hot(labels, 3), regularisation=0.3, weights_S=weights).head)


@pytest.mark.parametrize("n_old", [9, 400], ids=["rows", "gram"])
def test_added_regression_labels_move_the_scale_as_a_refit_does(n_old: int) -> None:
    rows, _, _ = problem(n_old + 5, 20)
    labels = 300 + 50 * torch.randn(n_old + 5, generator=torch.Generator().manual_seed(0)).double()
    ones = torch.ones(n_old + 5).double()
    found = statistics_of(rows[:n_old], labels[:n_old, None], ones[:n_old])
    found = found.with_examples(rows[n_old:], labels[n_old:, None])
    scale = label_scale(labels)
    refit = fit_ridge(rows, ((labels - scale.mean) / scale.deviation)[:, None], regularisation=0.3).head
    expected, answered = (head(rows) / scale.deviation for head in (in_label_units(refit, scale), found.head()))
    assert torch.allclose(answered, expected, atol=1e-5, rtol=0)


def test_examples_of_another_width_are_refused() -> None:
    rows, labels, weights = problem(9, 20)
    with pytest.raises(InvalidData, match="20 features"):
        statistics_of(rows, one_hot(labels, 3), weights).with_examples(rows[:, :5], one_hot(labels, 3))


def learned(strategy: str, target: LabelledSet, **options: Any) -> BaseLearner:
    using = [] if strategy == "target_only" else sources(target.task, 2)
    return load_learner(dump_learner(run(strategy, target, using=using, **options).learner))


@pytest.mark.parametrize("strategy", ["target_only", "metric"])
def test_statistics_in_the_artifact_give_the_learners_own_head(strategy: str) -> None:
    options = {"head": "ridge"} if strategy == "target_only" else {}
    learner = learned(strategy, blobs(7, 4), **options)
    assert learner.statistics is not None
    assert_equal(learner.statistics.head(), learner.pipeline.head)


@pytest.mark.parametrize("strategy", ["target_only", "metric"])
def test_regression_statistics_give_the_learners_own_head(strategy: str) -> None:
    learner = learned(strategy, slopes(7, 20))
    assert learner.statistics is not None
    assert_equal(learner.statistics.head(), learner.pipeline.head)


def test_extended_learner_equals_a_refit_on_everything() -> None:
    old, new = blobs(7, 3, classes=CLASSES[:2]), blobs(8, 4)
    learner = learned("target_only", old, head="ridge", regularisation=0.5)
    more = extended(learner, new.inputs, [new.classes[y] for y in new.labels_N.tolist()], range(6, 18))
    assert more.classes == CLASSES
    names = [data.classes[y] for data in (old, new) for y in data.labels_N.tolist()]
    rows = learner.pipeline.featuriser.transform(
        Features(matrix_NF=torch.cat([features(old).matrix_NF, features(new).matrix_NF]))
    )
    targets = one_hot(torch.tensor([CLASSES.index(name) for name in names]), 3)
    assert_equal(more.pipeline.head, fit_ridge(rows, targets, regularisation=0.5).head)
    assert more.support_rows == (*learner.support_rows, *range(6, 18))
    assert more.predict(new.inputs).probs_QC is not None
    assert load_learner(dump_learner(more)).classes == CLASSES


def test_extended_regression_widens_its_evidence_for_intervals() -> None:
    data = slopes(7, 30)
    learner = learned("target_only", data.select(torch.arange(20)))
    more = extended(learner, data.inputs.select(torch.arange(20, 30)), data.labels_N[20:].tolist(), range(20, 30))
    assert more.held_out_heads is not None
    assert len(more.held_out_heads.errors_S) == 30


def test_logistic_head_cannot_be_extended() -> None:
    learner = learned("target_only", blobs(7, 3))
    with pytest.raises(InvalidData, match="cannot be extended"):
        extended(learner, blobs(8, 1).inputs, list(CLASSES), range(3))
