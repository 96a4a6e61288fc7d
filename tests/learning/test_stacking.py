"""The base learner of tables and its members."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learning.adaptation import Adaptation, adapt
from learning.artifact import dump_learner, load_learner
from learning.config import STRATEGIES
from learning.encoders.tabular import QuantileFeaturiser
from learning.errors import InvalidArtifact
from learning.featurisers import dump_featuriser, load_featuriser
from learning.forest import MAX_PAIRS, Forest, grow_forest
from learning.heads import one_hot
from learning.kernels import MAX_ROWS, fit_kernel
from learning.stacking import FittedStack, fit_stack, tune_stack
from learning.types import Domain, LabelledSet, Table, Task, labelled_set


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=seeded(seed))


def checkerboard(n: int, seed: int, task: Task = "classification") -> LabelledSet:
    """The sign of a product: nothing for a linear head, and a text column that says nothing."""
    random = np.random.default_rng(seed)
    x, y = random.uniform(-1, 1, (2, n))
    x[::9] = np.nan
    town = np.array(random.choice(["Ulm", "Bonn"], n), dtype=object)
    table = Table(numeric={"x": x, "y": y}, categorical={"town": town})
    product = np.nan_to_num(x) * y
    labels = [str(v > 0) for v in product] if task == "classification" else [float(v) for v in product]
    return labelled_set(table, labels, task)


def line(n: int, seed: int) -> LabelledSet:
    """A straight line in columns of long tails."""
    random = np.random.default_rng(seed)
    x = np.exp(random.normal(size=(3, n)))
    table = Table(numeric={f"x{i}": column for i, column in enumerate(x)}, categorical={})
    return labelled_set(table, (x[0] - 2 * x[1]).tolist(), "regression")


def adapted(
    support: LabelledSet, *, strategy: str = "target_only", using: Sequence[Domain] = (), **options: Any
) -> Adaptation:
    return adapt(
        target=Domain(name="t", data=support), sources=using, featuriser=QuantileFeaturiser(), modality="tabular",
        encoder="quantile", encoder_revision="", columns={}, strategy=strategy,
        options=STRATEGIES[strategy](**options), meta_learner=None, seed=0, progress=lambda _f, _p: None,
    )  # fmt: skip


def accuracy(adaptation: Adaptation, test: LabelledSet) -> float:
    probs_QC = adaptation.learner.predict(test.inputs).probs_QC
    assert probs_QC is not None
    return float((probs_QC.argmax(1) == test.labels_N).double().mean())


def stacked(support: LabelledSet) -> FittedStack:
    return fit_stack(QuantileFeaturiser(), support, tune_stack(QuantileFeaturiser(), support, 0), 0)[0]


def test_table_learns_an_interaction_that_a_linear_head_cannot() -> None:
    support, test = checkerboard(80, 0), checkerboard(400, 1)
    assert accuracy(adapted(support), test) > 0.78
    assert accuracy(adapted(support, head="ridge"), test) < 0.7


def test_table_regression_follows_a_straight_line_in_columns_of_long_tails() -> None:
    test = line(300, 1)
    values_Q = adapted(line(50, 0)).learner.predict(test.inputs).values_Q
    assert values_Q is not None
    assert float((values_Q - test.labels_N).square().mean() / test.labels_N.var()) < 0.35


def test_linear_head_has_most_weight_where_labels_are_a_straight_line() -> None:
    linear, kernel, forest = tune_stack(QuantileFeaturiser(), line(40, 0), 0).weights
    assert linear > 0.9
    assert linear + kernel + forest == pytest.approx(1.0)


def test_weights_are_the_prior_where_every_class_has_one_row() -> None:
    table = Table(numeric={"x": np.arange(5.0)}, categorical={})
    tuning = tune_stack(QuantileFeaturiser(), labelled_set(table, list("abcde"), "classification"), 0)
    assert tuning.weights == pytest.approx((0.2, 0.4, 0.4))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_stack_answers_the_same_after_its_state_is_stored(task: Task) -> None:
    fitted, test = stacked(checkerboard(30, 0, task)), checkerboard(50, 1, task).inputs
    tensors, header = dump_featuriser(fitted)
    again = load_featuriser(tensors, json.loads(json.dumps(header)))
    assert torch.equal(again.transform(test), fitted.transform(test))
    assert again.width == fitted.width == fitted.transform(test).shape[1]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_adapted_table_answers_the_same_after_save_and_load(task: Task) -> None:
    learner = adapted(checkerboard(40, 0, task)).learner
    stored, test = dump_learner(learner), checkerboard(50, 1, task).inputs
    before, after = learner.predict(test), load_learner(stored).predict(test)
    for one, other in ((before.probs_QC, after.probs_QC), (before.values_Q, after.values_Q)):
        assert (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))
    assert len(stored) < 300_000


@pytest.mark.parametrize("damage", ["kernel_dual", "kernel_rows", "forest_left", "forest_feature", "forest_value"])
def test_stack_is_refused_when_a_part_of_its_state_is_cut(damage: str) -> None:
    tensors, header = stacked(checkerboard(30, 0)).state()
    with pytest.raises(InvalidArtifact):
        FittedStack.from_state({**tensors, damage: tensors[damage][..., 1:]}, header)


@pytest.mark.parametrize("field", ["left_M", "feature_M"])
def test_stack_is_refused_when_its_forest_points_elsewhere(field: str) -> None:
    stack = stacked(checkerboard(30, 0))
    wrong_M = getattr(stack.forest, field).clone()
    inner = int((stack.forest.left_M > 0).nonzero()[-1])
    # A node that is its own child would be followed for ever.
    wrong_M[inner] = inner if field == "left_M" else 10_000
    tensors, header = replace(stack, forest=replace(stack.forest, **{field: wrong_M})).state()
    with pytest.raises(InvalidArtifact):
        FittedStack.from_state(tensors, header)


def test_answers_hardly_change_the_distance_of_two_rows() -> None:
    support = checkerboard(30, 0)
    fitted = stacked(support)
    whole_NF = fitted.transform(support.inputs)
    table_NF = whole_NF[:, : fitted.table.width]
    assert torch.allclose(torch.cdist(whole_NF, whole_NF), torch.cdist(table_NF, table_NF), atol=0.01)


def test_forest_answers_the_mean_of_its_targets_where_features_do_not_vary() -> None:
    targets_ST = one_hot(torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), 2)
    forest = grow_forest(torch.ones(8, 3), targets_ST, seeded())
    assert torch.allclose(forest.answers(rows(5, 3)), torch.tensor([0.375, 0.625]).expand(5, 2), atol=1e-3)


def test_forest_finds_a_threshold() -> None:
    features_SF = rows(60)
    targets_ST = one_hot((features_SF[:, 2] > 0.3).long(), 2)
    queries_QF = rows(300, seed=1)
    answers_QT = grow_forest(features_SF, targets_ST, seeded()).answers(queries_QF)
    assert float((answers_QT.argmax(1) == (queries_QF[:, 2] > 0.3)).double().mean()) > 0.9


def test_forest_does_not_look_past_its_rows_values() -> None:
    forest = grow_forest(rows(40), rows(40, 1, seed=3), seeded())
    near, far = torch.full((1, 4), 100.0), torch.full((1, 4), 1e6)
    assert torch.equal(forest.answers(near), forest.answers(far))


def test_forest_repeats_with_its_generator_only() -> None:
    first, same, other = (grow_forest(rows(30), rows(30, 2, 1), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.threshold_M, same.threshold_M)
    assert not torch.equal(first.answers(rows(9)), other.answers(rows(9)))


def test_forest_stays_small_when_rows_are_many() -> None:
    forest = grow_forest(rows(3000), rows(3000, 2, 1), seeded())
    assert len(forest.left_M) <= 2 * MAX_PAIRS
    assert isinstance(Forest.from_tensors(forest.tensors()), Forest)


def test_kernel_held_out_answers_are_those_of_refits_with_the_same_weights() -> None:
    """With one bandwidth and strength the weights are 1, and leaving a row out is refitting without it."""
    features_SF, targets_ST = rows(12).half().float(), rows(12, 1, 1).double()
    fit = fit_kernel(features_SF, targets_ST, seeded(), bandwidths=(1.0,), strengths=(0.3,))
    length = float(fit.kernel.length_G[0])
    distance_SS = torch.cdist(features_SF.double(), features_SF.double(), p=1)
    kernel_SS, centred_ST = (-distance_SS / length).exp(), targets_ST - targets_ST.mean(0)
    for row in range(12):
        kept = torch.arange(12) != row
        dual_ST = torch.linalg.solve(kernel_SS[kept][:, kept] + 0.3 * torch.eye(11), centred_ST[kept])
        expected_T = kernel_SS[row, kept] @ dual_ST + targets_ST.mean(0)
        assert torch.allclose(fit.held_out_NT[row], expected_T, atol=1e-6)


def test_kernel_keeps_a_part_of_many_rows() -> None:
    fit = fit_kernel(rows(400), rows(400, 2, 1).double(), seeded())
    assert len(fit.kernel.rows_SF) == len(fit.rows_N) == len(fit.held_out_NT) == MAX_ROWS
    assert fit.kernel.answers(rows(7)).shape == (7, 2)


def test_kernel_answers_copies_of_one_row() -> None:
    fit = fit_kernel(torch.ones(6, 3), rows(6, 1).double(), seeded())
    assert fit.kernel.answers(torch.ones(2, 3)).isfinite().all()


def test_forest_and_kernel_do_not_see_rows_of_no_weight() -> None:
    features_SF, targets_ST = rows(40), one_hot(torch.arange(40) % 2, 2)
    weights_S = (torch.arange(40) % 2 == 0).double()
    forest = grow_forest(features_SF, targets_ST, seeded(), weights_S=weights_S)
    assert torch.equal(forest.answers(features_SF), torch.tensor([[1.0, 0.0]]).expand(40, -1))
    fit = fit_kernel(features_SF, targets_ST, seeded(), weights_S=weights_S)
    assert set((fit.rows_N % 2).tolist()) == {0}


def checkerboards(task: Task) -> list[Domain]:
    return [Domain(name=f"source{i}", data=checkerboard(150, 10 + i, task)) for i in range(2)]


@pytest.mark.parametrize("strategy", ["metric", "init"])
def test_transfer_to_a_table_brings_a_kernel_and_a_forest_of_the_sources(strategy: str) -> None:
    """A checkerboard cannot be learned from six rows, nor by any linear head."""
    using, target, queries = checkerboards("classification"), checkerboard(6, 3), checkerboard(400, 4)
    helped = accuracy(adapted(target, strategy=strategy, using=using), queries)
    assert helped > accuracy(adapted(target), queries) + 0.1
    assert helped > accuracy(adapted(target, strategy=strategy, using=using, regularisation=1.0), queries) + 0.1


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strategy", ["metric", "init"])
def test_table_adapted_with_sources_answers_the_same_after_save_and_load(strategy: str, task: Task) -> None:
    learner = adapted(checkerboard(12, 3, task), strategy=strategy, using=checkerboards(task)).learner
    queries = checkerboard(50, 4, task).inputs
    assert torch.equal(load_learner(dump_learner(learner)).pipeline.outputs(queries), learner.pipeline.outputs(queries))
