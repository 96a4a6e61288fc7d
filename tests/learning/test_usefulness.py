"""When a model is refused, or only warned about."""

import torch

from learning.folds import HeldOut
from learning.report import usefulness_warnings
from learning.types import Features, LabelledSet, labelled_set


def balanced(n_per_class: int) -> LabelledSet:
    return labelled_set(Features(matrix_NF=torch.zeros(2 * n_per_class, 1)), ["a", "b"] * n_per_class, "classification")


def codes(support: LabelledSet, hits: int) -> list[str]:
    """Of a model that answers the first `hits` rows rightly and the others wrongly, where guessing is right half the
    time."""
    answers_S = torch.where(torch.arange(len(support)) < hits, support.labels_N, 1 - support.labels_N)
    held_out = HeldOut(
        outputs_ST=torch.nn.functional.one_hot(answers_S, 2).double(),
        comparable_S=torch.ones(len(support), dtype=torch.bool),
        majority_S=support.labels_N == 0,
        fold_S=torch.arange(len(support)),
        pipelines=(),
    )
    return [warning["code"] for warning in usefulness_warnings(held_out, held_out.comparable_S, support)]


def test_four_wrong_answers_are_too_few_to_refuse_a_model() -> None:
    assert codes(balanced(2), hits=0) == ["no_better_than_majority"]


def test_model_far_below_guessing_is_refused() -> None:
    assert codes(balanced(10), hits=1) == ["worse_than_majority"]


def test_model_well_above_guessing_is_not_warned_about() -> None:
    assert codes(balanced(10), hits=16) == []
