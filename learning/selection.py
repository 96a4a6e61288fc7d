"""Which candidate becomes the base learner: all are scored on the same held-out rows, the transfer candidates are
averaged (`learning.blend`), and the guard decides between their average and not transferring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learning.assembly import Scored
from learning.blend import Blend, blend, score_blend
from learning.calibration import held_out_temperature
from learning.candidates import Candidate
from learning.class_names import Named
from learning.config import TRANSFER
from learning.context import TransferContext
from learning.folds import HeldOut, held_out
from learning.guard import (
    MISLEADING,
    Gain,
    Prior,
    card_prior,
    choose,
    is_worse_than_chance,
    mixed_prior,
    paired_gain,
    row_scores,
)
from learning.misleading import misleading_probability
from learning.types import LabelledSet, Progress
from learning.usefulness import usefulness_warnings


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """Every candidate, its held-out answers, and of the transfer candidates the prior and the posterior of the gain.

    `misled`: the probability that the sources mislead (`learning.misleading`).
    """

    candidates: Mapping[str, Candidate]
    scored: Mapping[str, Scored]
    priors: Mapping[str, Prior]
    gains: Mapping[str, Gain]
    misled: float | None = None

    def with_blend(self, blended: Blend, scored: Scored, prior: Prior, gain: Gain) -> "Contest":
        """The blend in the place of its leader."""
        name = blended.name
        return replace(
            self,
            candidates={**self.candidates, name: blended},
            scored={**self.scored, name: scored},
            priors={**self.priors, name: prior},
            gains={**self.gains, name: gain},
        )


def hold_contest(
    candidates: Mapping[str, Candidate],
    support: LabelledSet,
    fold_S: Tensor,
    context: TransferContext | None,
    card: Mapping[str, Any] | None,
    progress: Progress,
) -> Contest:
    """Scores every candidate on the same folds and compares it with target_only, which has to be among them.

    `card` tells what is expected of the transfer candidates (`learning.card`).
    """
    scored = {}
    for place, (name, candidate) in enumerate(candidates.items()):
        share = _part(progress, place, len(candidates), f"scoring {name}")
        answers = held_out(candidate, support, fold_S, progress=share)
        scored[name] = _score(answers, support, knows_classes=name != "target_only" and _shares(context, support))
    misled = misleading_probability(context, support)
    priors = {
        name: _prior(candidate, support, card, misled) for name, candidate in candidates.items() if name in TRANSFER
    }
    gains = {name: _gain(scored[name], scored["target_only"], prior, support) for name, prior in priors.items()}
    return Contest(candidates=candidates, scored=scored, priors=priors, gains=gains, misled=misled)


def select(contest: Contest, support: LabelledSet, standard_errors: float) -> tuple[str, Contest]:
    """The name of what `auto` keeps, and the contest with the blend in it where that is what it keeps.

    Transfer candidates that the target's rows speak against have no part in the blend.
    """
    able = {name: contest.candidates[name] for name, gain in contest.gains.items() if not gain.contradicted}
    if len(able) > 1:
        blended = blend(able, contest.scored, support)
        scored = score_blend(blended, contest.scored, support)
        prior = mixed_prior([contest.priors[member.name] for member in blended.members], blended.shares)
        gain = _gain(scored, contest.scored["target_only"], prior, support)
        contest = contest.with_blend(blended, scored, prior, gain)
        able = {blended.name: blended}
    chosen = choose({name: contest.gains[name] for name in able}, standard_errors)
    if chosen == "target_only" and _is_useless(contest.scored[chosen], support):
        # It would be refused. What the target's rows do not speak against is then the better answer.
        chosen = next((name for name in able if not _is_useless(contest.scored[name], support)), chosen)
    return chosen, contest


def is_rescue(chosen: str, contest: Contest, standard_errors: float) -> bool:
    """Whether `select` kept it only because target_only would be refused."""
    return chosen != "target_only" and not contest.gains[chosen].beats(standard_errors)


def _is_useless(scored: Scored, support: LabelledSet) -> bool:
    warnings = usefulness_warnings(scored.held_out, scored.useful_S, support)
    return any(warning["code"] == "worse_than_majority" for warning in warnings)


def _part(progress: Progress, place: int, count: int, phase: str) -> Callable[[float], None]:
    """Reports a fraction of candidate `place` of `count` as one of the whole, of which scoring is nine tenths."""
    return lambda done: progress(0.9 * (place + done) / count, phase)


def _shares(context: TransferContext | None, support: LabelledSet) -> bool:
    """Whether sources know every class of the target (or it is a regression), so that even a lone row is a test."""
    if context is None or context.bank is None:
        return False
    return set(support.classes) <= set(context.bank.classes)


def _score(answers: HeldOut, support: LabelledSet, *, knows_classes: bool) -> Scored:
    useful_S = torch.ones_like(answers.comparable_S) if knows_classes else answers.comparable_S
    temperature = 1.0
    if support.classes:
        temperature = held_out_temperature(answers.outputs_ST, support.labels_N, useful_S)
    return Scored(held_out=answers, temperature=temperature, useful_S=useful_S)


def _prior(candidate: Candidate, support: LabelledSet, card: Mapping[str, Any] | None, misled: float | None) -> Prior:
    """What the card expects of it, and how far the sources are to be doubted.

    Sources that one candidate gains from are a promise to all. A meta-learner of other classes may be of another matter
    too, and no label tells. Class names that stand in for the labels are judged by the target's rows alone.
    """
    by_name = {name: card_prior(card, name, support.shots) for name in TRANSFER}
    prior = replace(by_name[candidate.name], promised=any(prior.promised for prior in by_name.values()))
    if misled is None and prior.promised and support.classes and not isinstance(candidate, Named):
        misled = MISLEADING
    return replace(prior, misled=misled)


def _judged(scored: Scored, support: LabelledSet) -> tuple[Tensor, LabelledSet]:
    """Held-out answers to the rows that say something of this candidate, and these rows."""
    return scored.held_out.outputs_ST[scored.useful_S], support.select(scored.useful_S.nonzero()[:, 0])


def _gain(scored: Scored, baseline: Scored, prior: Prior, support: LabelledSet) -> Gain:
    """Over target_only, from the rows on which both can be judged."""
    comparable_S, both = baseline.held_out.comparable_S, (scored, baseline)
    rows, alone = (row_scores(each.held_out.outputs_ST, support, each.temperature)[comparable_S] for each in both)
    fewer_hits = True
    if support.classes:
        right, right_alone = (_hits(each, support)[comparable_S].sum() for each in both)
        fewer_hits = bool(right < right_alone)
    outputs_ST, judged = _judged(scored, support)
    worse_than_chance = len(judged) > 0 and is_worse_than_chance(outputs_ST, judged)
    return paired_gain(rows, alone, prior, worse_than_chance=worse_than_chance, fewer_hits=fewer_hits)


def _hits(scored: Scored, support: LabelledSet) -> Tensor:
    """(S,) bool."""
    return scored.held_out.outputs_ST.argmax(1) == support.labels_N
