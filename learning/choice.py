"""What an adaptation decided on, and how its report tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from learning.assembly import Scored
from learning.base_learner import BaseLearner
from learning.blend import Blend
from learning.calibration import held_out_temperature
from learning.candidates import Candidate
from learning.config import AutoOptions, StrategyOptions
from learning.folds import HeldOut
from learning.graft_tuning import TunedGraft
from learning.guard import describe_choice
from learning.selection import Contest, is_rescue


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The candidate `name` of the contest, or in its place the one whose graft was `tuned` on the target."""

    name: str
    contest: Contest
    tuned: TunedGraft | None

    @property
    def strategy(self) -> str:
        return self.name if self.tuned is None else self.tuned.candidate.name

    @property
    def candidate(self) -> Candidate:
        return self.contest.candidates[self.name] if self.tuned is None else self.tuned.candidate

    @property
    def scored(self) -> Mapping[str, Scored]:
        """Of every candidate, the tuned one in the place of its namesake."""
        own = {} if self.tuned is None else {self.strategy: _score_tuned(self.tuned)}
        return {**self.contest.scored, **own}

    def reason(self, options: StrategyOptions) -> str:
        """One or two sentences for the report."""
        reason = describe_choice(self.name, self.contest.gains, list(self.contest.candidates))
        if isinstance(options, AutoOptions) and is_rescue(self.name, self.contest, options.guard_standard_errors):
            reason = f"target_only is worse than guessing, and the held-out examples do not speak against {self.name}."
        if (shares := shares_in(self.contest.candidates[self.name])) is not None:
            others = " and ".join(name for name in shares if name != self.name)
            reason = f"{reason[:-1]}; its answers are averaged with those of {others}."
        if self.tuned is None:
            return reason
        gain = f"{self.tuned.gain.mean:+.3f} over {self.name}"
        return f"{reason} Tuning the graft on the target gained {gain} on held-out examples."


def shares_in(candidate: Candidate) -> dict[str, float] | None:
    """How much each member of a blend counts; None of any other candidate."""
    if not isinstance(candidate, Blend):
        return None
    return {member.name: share for member, share in zip(candidate.members, candidate.shares, strict=True)}


def graft_report(learner: BaseLearner, tuned: TunedGraft | None) -> dict[str, Any]:
    """What the encoder wears: nothing, the meta-learner's graft, or one tuned on the target."""
    numbers = 0 if learner.graft is None else learner.graft.n_numbers
    if tuned is None:
        return {"from": "rootstock" if learner.graft is None else "meta_learner", "numbers": numbers}
    gain = {"value": tuned.gain.mean, "interval": list(tuned.gain.interval)}
    return {"from": "target", "numbers": numbers, "steps": tuned.steps, "gain": gain}


def _score_tuned(tuned: TunedGraft) -> Scored:
    """The tuned graft's answers on the rows that were held out of it; nothing is known of the others."""
    support, held_S = tuned.support, tuned.held_S
    majority_S = held_S & (support.labels_N == torch.bincount(support.labels_N).argmax())
    answers = HeldOut(
        outputs_ST=tuned.outputs_ST, comparable_S=held_S, majority_S=majority_S,
        fold_S=torch.zeros(len(support), dtype=torch.int64), pipelines=(tuned.held_out,),
    )  # fmt: skip
    temperature = held_out_temperature(tuned.outputs_ST[held_S], support.labels_N[held_S])
    return Scored(held_out=answers, temperature=temperature, useful_S=held_S)
