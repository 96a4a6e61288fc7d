import pytest
import torch

from learning.folds import plan_folds
from learning.types import Features, LabelledSet, labelled_set
from tests.learning.problems import blobs, slopes


def plan(support: LabelledSet, max_folds: int = 10) -> torch.Tensor:
    return plan_folds(support, max_folds, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shots", [2, 5, 8])
def test_folds_leave_out_one_row_of_every_class_when_shots_are_equal(shots: int) -> None:
    support = blobs(0, shots)
    fold_S = plan(support)
    assert len(fold_S.unique()) == shots
    for fold in fold_S.unique():
        assert support.labels_N[fold_S == fold].sort().values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("shots", "n_folds"), [(8, 4), (20, 5), (7, 5)])
def test_fewer_folds_than_shots_still_take_as_many_rows_of_every_class_where_that_is_possible(
    shots: int, n_folds: int
) -> None:
    support = blobs(0, shots)
    fold_S = plan(support, max_folds=5)
    assert len(fold_S.unique()) == n_folds
    taken = torch.bincount(3 * fold_S + support.labels_N)
    assert (len(taken.unique()) == 1) == (shots % n_folds == 0)


def test_folds_are_no_more_than_asked_for() -> None:
    assert len(plan(blobs(0, 30), max_folds=6).unique()) == 6
    assert len(plan(slopes(0, 30), max_folds=6).unique()) == 6
    assert len(plan(slopes(0, 600), max_folds=6).unique()) == 3


def test_one_shot_supports_and_small_regressions_are_left_out_row_by_row() -> None:
    assert plan(blobs(0, 1)).tolist() == [0, 1, 2]
    assert plan(slopes(0, 7)).tolist() == list(range(7))


def test_folds_of_unequal_classes_follow_the_largest() -> None:
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    fold_S = plan(labelled_set(Features(matrix_NF=rows), ["a"] * 7 + ["b"] * 2, "classification"))
    assert len(fold_S.unique()) == 7
