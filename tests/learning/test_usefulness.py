"""When a model is refused, or only warned about."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from learning.assembly import Scored, refuse_useless
from learning.base_learner import BaseLearner
from learning.errors import NonFiniteFeatures, NonFiniteModel, UselessModel
from learning.folds import HeldOut
from learning.types import Features, LabelledSet, labelled_set
from learning.usefulness import CHANCE, binomial_tail, usefulness_warnings
from tests.learning.problems import blobs, features, run, slopes, sources


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
    assert codes(balanced(2), hits=0) == ["no_better_than_majority", "may_be_chance"]


def test_model_far_below_guessing_is_refused() -> None:
    assert codes(balanced(10), hits=1) == ["worse_than_majority", "may_be_chance"]


@pytest.mark.parametrize(("hits", "expected"), [(16, ["may_be_chance"]), (17, []), (20, [])])
def test_model_is_not_warned_about_once_guessing_hardly_gets_so_many_right(hits: int, expected: list[str]) -> None:
    # Of twenty fair coins 16 or more fall alike with probability .0059, 17 or more with .0013.
    assert codes(balanced(10), hits=hits) == expected


def test_majority_is_what_a_model_has_to_beat_when_classes_are_unequal() -> None:
    support = labelled_set(Features(matrix_NF=torch.zeros(40, 1)), ["a"] * 34 + ["b"] * 6, "classification")
    assert codes(support, hits=38) == ["may_be_chance"]  # 38 of 40 are certain of coins, but not where guessing gets 34
    assert codes(support, hits=40) == []


def test_nothing_is_said_of_chance_when_nothing_was_held_out() -> None:
    support = balanced(1)
    nothing_S = torch.zeros(2, dtype=torch.bool)
    held_out = HeldOut(
        outputs_ST=torch.zeros(2, 2), comparable_S=nothing_S, majority_S=nothing_S, fold_S=torch.arange(2), pipelines=()
    )
    assert [found["code"] for found in usefulness_warnings(held_out, nothing_S, support)] == ["not_validated"]


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (7, 0.3), (24, 0.5), (40, 0.85), (60, 0.01)])
def test_binomial_tail_equals_the_exact_sum(n: int, p: float) -> None:
    for hits in range(n + 1):
        exact = sum(
            Fraction(math.comb(n, k)) * Fraction(p) ** k * (1 - Fraction(p)) ** (n - k) for k in range(hits, n + 1)
        )
        if hits > n * p:
            assert math.isclose(binomial_tail(hits, n, p), float(exact), rel_tol=1e-10)
        else:
            assert exact > CHANCE
            assert binomial_tail(hits, n, p) == 1.0


def test_binomial_tail_of_very_many_rows_is_a_number() -> None:
    assert binomial_tail(100_001, 200_000, 0.5) == pytest.approx(0.4991, abs=1e-3)
    assert binomial_tail(200_000, 200_000, 0.5) == 0.0


def regression_codes(errors: Tensor) -> list[str]:
    """Of a model whose held-out answers miss the labels 0, 1, 2, ... by so much."""
    labels = torch.arange(len(errors)).double()
    support = labelled_set(Features(matrix_NF=torch.zeros(len(errors), 1)), labels.tolist(), "regression")
    every_S = torch.ones(len(errors), dtype=torch.bool)
    held_out = HeldOut(
        outputs_ST=(labels + errors)[:, None], comparable_S=every_S, majority_S=~every_S,
        fold_S=torch.arange(len(errors)), pipelines=(),
    )  # fmt: skip
    return [warning["code"] for warning in usefulness_warnings(held_out, every_S, support)]


def test_regression_is_not_warned_about_when_nearly_every_answer_is_nearer_than_the_mean() -> None:
    assert regression_codes(torch.full((24,), 0.1)) == []


def test_regression_that_gives_the_mean_of_the_others_may_be_chance() -> None:
    labels = torch.arange(24).double()
    assert regression_codes((labels.sum() - labels) / 23 - labels) == ["may_be_chance"]


def test_regression_far_worse_than_the_mean_is_refused() -> None:
    assert "worse_than_majority" in regression_codes(torch.full((24,), 100.0))


def learner() -> BaseLearner:
    return run("target_only", blobs(7, 4)).learner


def scored(value: float) -> Scored:
    every_S = torch.ones(2, dtype=torch.bool)
    answers = HeldOut(
        outputs_ST=torch.tensor([[1.0, 0.0], [value, 1.0]]), comparable_S=every_S, majority_S=every_S,
        fold_S=torch.arange(2), pipelines=(),
    )  # fmt: skip
    return Scored(held_out=answers, temperature=1.0, useful_S=every_S)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_model_is_refused_when_a_number_of_it_is_not_finite(value: float) -> None:
    sound = learner()
    refuse_useless(sound, scored(0.0), [])
    head = replace(sound.pipeline.head, bias_T=sound.pipeline.head.bias_T + value)
    broken = (
        replace(sound, pipeline=replace(sound.pipeline, head=head)),
        replace(sound, temperature=value),
        replace(sound, familiarity=replace(sound.familiarity, typical=value)),
    )
    for one in broken:
        with pytest.raises(NonFiniteModel):
            refuse_useless(one, scored(0.0), [])
    with pytest.raises(NonFiniteModel):
        refuse_useless(sound, scored(value), [])


@pytest.mark.parametrize("where", ["target", "source"])
def test_adaptation_refuses_rows_without_finite_features(where: str) -> None:
    target, source = blobs(7, 4), sources()[0]
    broken = features(target if where == "target" else source.data).matrix_NF
    broken[2, 3] = math.nan
    with pytest.raises(NonFiniteFeatures, match=f"row 3 of {'target' if where == 'target' else source.name}"):
        run("metric", target, using=[source])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_model_of_permuted_labels_is_refused_or_may_be_chance_and_an_honest_one_is_neither(task: str) -> None:
    honest = blobs(7, 12) if task == "classification" else slopes(7, 40)
    assert not {"may_be_chance", "not_validated"} & _codes(run("target_only", honest).report)
    for seed in range(5):
        order_N = torch.randperm(len(honest), generator=torch.Generator().manual_seed(seed))
        try:
            told = run("target_only", replace(honest, labels_N=honest.labels_N[order_N])).report
        except UselessModel:
            continue
        assert "may_be_chance" in _codes(told)


def _codes(report: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in report["warnings"]}
