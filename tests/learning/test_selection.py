"""What `auto` keeps."""

import pytest
import torch
from torch import Tensor

from learning.assembly import Scored
from learning.candidates import TargetOnly
from learning.config import AutoOptions, TargetOnlyOptions
from learning.context import make_context
from learning.featurisers import Centring
from learning.folds import HeldOut
from learning.guard import Gain, Prior
from learning.misleading import misleading_probability
from learning.selection import Contest, hold_contest, is_rescue, select
from learning.transfer_candidates import make_candidate
from learning.types import Features, labelled_set
from tests.learning.problems import blobs, sources

NAMES = ("target_only", "metric", "init")
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


@pytest.mark.parametrize(("classes", "told"), [(("bad", "fine", "good"), True), (("x", "y", "z"), False)])
def test_all_candidates_transfer_from_the_same_sources(classes: tuple[str, ...], told: bool) -> None:
    support = blobs(50, 4, classes=classes)
    generator = torch.Generator().manual_seed(0)
    context = make_context(sources(), Centring(), AutoOptions(), None, generator, target=support.inputs)

    candidates = {
        name: make_candidate(name, AutoOptions(), featuriser=Centring(), context=context, seed=0) for name in NAMES
    }
    contest = hold_contest(candidates, support, torch.arange(12) % 4, context, None, lambda _done, _phase: None)
    expected = misleading_probability(context, support)
    assert (expected is not None) == told
    assert {prior.misled for prior in contest.priors.values()} == {expected}


def test_what_one_candidate_gains_from_the_sources_is_a_promise_to_all() -> None:
    def told(half: float) -> dict[str, object]:
        return {"gain": {"value": 0.06, "interval": [0.06 - half, 0.06 + half], "deviation": 0.1}}

    def promised(metric: float, init: float) -> set[bool]:
        episode = {"shots": 10, "metric": told(metric), "init": told(init)}
        card = {"meta_trained": False, "episodes": [episode]}
        options = TargetOnlyOptions()
        candidates = {name: TargetOnly(featuriser=Centring(), options=options, name=name) for name in NAMES}
        contest = hold_contest(candidates, SUPPORT, torch.arange(20) % 2, None, card, lambda _done, _phase: None)
        return {prior.promised for prior in contest.priors.values()}

    assert promised(0.03, 0.05) == {True}
    assert promised(0.05, 0.05) == {False}
