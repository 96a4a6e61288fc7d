import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learning.artifact import dump_learner, load_learner
from learning.heads import LinearHead, fit_ridge, leave_one_out_heads
from learning.intervals import HeldOutHeads, cross_validated, interpolated_quantile
from learning.types import Domain, Features, LabelledSet, labelled_set
from tests.learning.problems import features, run, slopes, sources


def with_bias_column(head: LinearHead) -> Tensor:
    return torch.cat([head.weight_TF, head.bias_T[:, None]], dim=1)


@pytest.mark.parametrize(("n_rows", "width"), [(6, 20), (30, 4)], ids=["dual", "primal"])
def test_leave_one_out_heads_equal_refits(n_rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_rows, width, generator=generator).double()
    targets = torch.randn(n_rows, 2, generator=generator).double()
    weights = 0.2 + torch.rand(n_rows, generator=generator).double()
    fit = fit_ridge(rows, targets, regularisation=0.3, weights_S=weights)
    heads = leave_one_out_heads(rows, targets, fit, regularisation=0.3, weights_S=weights)
    for row in range(n_rows):
        kept = [other for other in range(n_rows) if other != row]
        refit = fit_ridge(rows[kept], targets[kept], regularisation=0.3, weights_S=weights[kept]).head
        assert torch.allclose(heads[row], with_bias_column(refit), atol=1e-9)


def test_intervals_equal_the_definition_of_jackknife_plus() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(19, 3, generator=generator).double(), torch.randn(19, 1, generator=generator).double()
    query = torch.randn(1, 3, generator=generator).double()
    refits = [fit_ridge(rows[kept], labels[kept], regularisation=1.0).head for kept in ~torch.eye(19, dtype=torch.bool)]
    errors = torch.stack([labels[i, 0] - head(rows[[i]])[0, 0] for i, head in enumerate(refits)])
    answers = torch.stack([head(query)[0, 0] for head in refits])
    # (19 + 1) x .9 = 18 is whole: the 18th smallest upper end, and the 18th largest lower end.
    expected = [float((answers - errors.abs()).sort().values[1]), float((answers + errors.abs()).sort().values[17])]
    found = cross_validated(refits, torch.arange(19), errors).intervals(query, 0.9)[0].tolist()
    assert found == pytest.approx(expected)


def test_intervals_are_infinite_when_too_few_rows_can_promise_the_coverage() -> None:
    heads = HeldOutHeads(heads_KF=torch.ones(8, 3).double(), head_S=torch.arange(8), errors_S=torch.ones(8).double())
    assert heads.intervals(torch.zeros(2, 2), 0.9).tolist() == [[-math.inf, math.inf]] * 2


def test_quantile_interpolates_between_order_statistics() -> None:
    scores = torch.arange(1.0, 11.0)
    assert float(interpolated_quantile(scores, 0.5)) == pytest.approx(5.5)
    assert float(interpolated_quantile(scores, 0.9)) == pytest.approx(9.9)
    assert math.isinf(float(interpolated_quantile(scores, 0.95)))


def drawn(seed: int, n: int, spread: Callable[[Tensor], Tensor]) -> LabelledSet:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 8, generator=generator)
    slope = torch.randn(8, generator=torch.Generator().manual_seed(seed % 1000))
    labels = 40 + 5 * (rows @ slope + spread(rows) * torch.randn(n, generator=generator))
    return labelled_set(Features(matrix_NF=rows), labels.tolist(), "regression")


@pytest.mark.parametrize("strategy", ["target_only", "init"])
@pytest.mark.parametrize("n_support", [15, 40])
@pytest.mark.parametrize(
    "spread",
    [lambda rows: torch.ones(len(rows)), lambda rows: 0.3 + rows[:, 0].abs()],
    ids=["homoscedastic", "heteroscedastic"],
)
def test_intervals_cover_nine_tenths_of_fresh_rows(
    strategy: str, n_support: int, spread: Callable[[Tensor], Tensor]
) -> None:
    inside = []
    for seed in range(40 if strategy == "init" else 120):
        data = drawn(seed, n_support + 60, spread)
        support, fresh = data.select(torch.arange(n_support)), data.select(torch.arange(n_support, len(data)))
        using = [Domain(name="source", data=drawn(seed + 1000, 60, spread))] if strategy == "init" else []
        learner = run(strategy, support, using=using).learner
        ends = learner.predict(fresh.inputs).intervals_Q2
        assert ends is not None
        inside.append(((fresh.labels_N >= ends[:, 0]) & (fresh.labels_N <= ends[:, 1])).double().mean())
    assert 0.88 <= float(torch.stack(inside).mean()) <= 0.92


def test_intervals_widen_far_from_the_support() -> None:
    learner = run("target_only", slopes(1, 30)).learner
    near = features(slopes(1, 30))
    widths = []
    for scale in (1, 30):
        ends = learner.predict(Features(matrix_NF=scale * near.matrix_NF)).intervals_Q2
        assert ends is not None
        widths.append(float((ends[:, 1] - ends[:, 0]).mean()))
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("strategy", ["target_only", "init", "metric"])
def test_intervals_survive_the_artifact(strategy: str) -> None:
    using = [] if strategy == "target_only" else sources("regression", 2)
    learner = run(strategy, slopes(9, 24), using=using).learner
    assert learner.held_out_heads is not None
    queries = features(slopes(10, 7))
    first, second = (each.predict(queries).intervals_Q2 for each in (learner, load_learner(dump_learner(learner))))
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_intervals_of_many_rows_keep_one_half_width() -> None:
    learner = run("target_only", slopes(9, 300), max_folds=4).learner
    assert learner.held_out_heads is None
    ends = learner.predict(features(slopes(10, 7))).intervals_Q2
    assert ends is not None
    assert float((ends[:, 1] - ends[:, 0]).std()) < 1e-6
