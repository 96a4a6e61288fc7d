"""What `auto` keeps."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from learning.assembly import Scored
from learning.base_learner import Pipeline
from learning.candidates import FittedCandidate, TargetOnly
from learning.config import AutoOptions, TargetOnlyOptions
from learning.context import TransferContext, make_context
from learning.featurisers import Centring
from learning.folds import HeldOut
from learning.guard import Gain, Prior
from learning.selection import Contest, hold_contest, is_rescue, select
from learning.types import Domain, Features, LabelledSet, labelled_set

SUPPORT = labelled_set(Features(matrix_NF=torch.zeros(20, 1)), ["a", "b"] * 10, "classification")


def scored(right_S: Tensor) -> Scored:
    """Held-out answers that are right where `right_S` says so."""
    outputs_ST = torch.nn.functional.one_hot(torch.where(right_S, SUPPORT.labels_N, 1 - SUPPORT.labels_N), 2).double()
    every_S = torch.ones(20, dtype=torch.bool)
    half_S = torch.arange(20) < 10
    held_out = HeldOut(
        outputs_ST=outputs_ST, comparable_S=every_S, majority_S=half_S, fold_S=torch.zeros(20).long(), pipelines=()
    )
    return Scored(held_out=held_out, temperature=1.0, useful_S=every_S)


@pytest.mark.parametrize(("n_right", "kept"), [(0, "metric"), (12, "target_only")])
def test_what_nothing_speaks_against_is_kept_only_where_target_only_would_be_refused(n_right: int, kept: str) -> None:
    unsure = Gain(mean=-0.01, deviation=0.1, evidence=0.0, error=0.1, contradicted=False)
    candidate = TargetOnly(featuriser=Centring(), options=TargetOnlyOptions())
    contest = Contest(
        candidates={"target_only": candidate, "metric": candidate},
        scored={"target_only": scored(torch.arange(20) < n_right), "metric": scored(torch.arange(20) < 11)},
        priors={"metric": Prior()},
        gains={"metric": unsure},
    )
    chosen, _ = select(contest, SUPPORT, 0.25)
    assert chosen == kept
    assert is_rescue(chosen, contest, 0.25) == (kept == "metric")


class Answering:
    """A candidate whose outputs on the rows of `SUPPORT` are given."""

    def __init__(self, name: str, right_S: Tensor) -> None:
        self.name, self.outputs_ST = name, scored(right_S).held_out.outputs_ST

    def tuned(self, support: LabelledSet) -> "Answering":
        return self

    def fit(self, support: LabelledSet) -> FittedCandidate:
        return FittedCandidate(pipeline=cast("Pipeline", self))

    def outputs(self, inputs: Features) -> Tensor:
        return self.outputs_ST[inputs.matrix_NF[:, 0].long()]


def test_the_most_suspicious_candidate_speaks_for_all() -> None:
    numbered = replace(SUPPORT, inputs=Features(matrix_NF=torch.arange(20.0)[:, None]))
    entry = {"score": 0.8, "gain": {"value": 0.2, "deviation": 0.05}}
    card = {"measure": "accuracy", "episodes": [{"shots": 10, "metric": entry, "init": entry}]}
    candidates = {
        name: Answering(name, torch.arange(20) < n_right)
        for name, n_right in (("target_only", 12), ("metric", 4), ("init", 15))
    }

    def contest(*names: str) -> Contest:
        chosen = {name: candidates[name] for name in names}
        return hold_contest(chosen, numbered, torch.arange(20) % 5, None, card, lambda _done, _phase: None)

    both, alone = contest("target_only", "metric", "init"), contest("target_only", "init")
    assert both.priors["init"].misled == both.priors["metric"].misled > 0.9
    assert alone.priors["init"].misled < 0.1
    assert both.gains["init"].mean < alone.gains["init"].mean


def test_from_one_row_a_class_each_candidate_speaks_for_itself() -> None:
    names = [f"class{i}" for i in range(20)]
    single = labelled_set(Features(matrix_NF=torch.arange(20.0)[:, None]), names, "classification")
    answers_ST = torch.nn.functional.one_hot(single.labels_N, 20).double()
    entry = {"score": 0.8, "gain": {"value": 0.2, "deviation": 0.05}}
    card = {"measure": "accuracy", "episodes": [{"shots": 1, "metric": entry, "init": entry}]}
    candidates = {}
    for name, n_right in (("target_only", 0), ("metric", 16), ("init", 1)):
        candidates[name] = Answering(name, torch.zeros(20) > 0)
        candidates[name].outputs_ST = torch.where(
            (torch.arange(20) < n_right)[:, None], answers_ST, answers_ST.roll(1, 1)
        )
    contest = hold_contest(candidates, single, torch.arange(20), sharing(names), card, lambda _done, _phase: None)
    assert contest.priors["init"].misled > 0.9
    assert contest.priors["metric"].misled < 0.05


def sharing(names: list[str]) -> TransferContext:
    """Sources that know every class, so that even a lone row is a test."""
    rows = Features(matrix_NF=torch.arange(40.0)[:, None])
    source = Domain(name="source", data=labelled_set(rows, names * 2, "classification"))
    context = make_context(
        [source], Centring(), AutoOptions(), None, torch.Generator().manual_seed(0), target=rows
    )  # fmt: skip
    assert context is not None
    return context
