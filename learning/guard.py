"""The guard against negative transfer: leave target_only only for a candidate that clearly wins on the target itself.

Evidence is the paired difference of held-out scores on the target's rows. It is noisy at a few shots, so it is shrunk
toward what the meta-learner's card expects at this number of shots (a normal prior); without a card the prior expects
nothing. A candidate replaces target_only only where the posterior gain lies beyond the asked number of standard errors
above zero *and* the target's own rows do not speak against it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from learning.types import LabelledSet

#: Spread of gains between tasks where no card tells it, and the least that a card is believed.
DEFAULT_SPREAD, LEAST_SPREAD = 0.15, 0.03
#: Two pseudo-rows of this deviation keep a handful of equal differences from looking certain.
PSEUDO_ROWS, PSEUDO_DEVIATION = 2.0, 0.3


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Expected gain over target_only and its spread between tasks."""

    mean: float = 0.0
    deviation: float = DEFAULT_SPREAD


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Posterior of a candidate's gain over target_only; `evidence` and `error` are the target's own, None without."""

    mean: float
    deviation: float
    evidence: float | None
    error: float | None
    contradicted: bool

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - 1.96 * self.deviation, self.mean + 1.96 * self.deviation

    def beats(self, standard_errors: float) -> bool:
        return not self.contradicted and self.mean > standard_errors * self.deviation


def row_scores(outputs_ST: Tensor, support: LabelledSet, temperature: float) -> Tensor:
    """(S,) the probability given to the true class, or 1 - squared error relative to the labels' variance (>= -1).

    Both are on the scale of accuracy and explained variance, but far less noisy than counting hits.
    """
    if support.classes:
        return (outputs_ST / temperature).softmax(1).gather(1, support.labels_N[:, None])[:, 0]
    labels_S = support.labels_N.double()
    variance = float(labels_S.var(correction=0)) or 1.0
    return (1 - (outputs_ST[:, 0] - labels_S).square() / variance).clamp_min(-1.0)


def card_prior(card: Mapping[str, Any] | None, strategy: str, shots: float) -> Prior:
    """The card's gain for `strategy`, interpolated in log shots between the numbers of shots it was measured at."""
    episodes = sorted(card["episodes"], key=lambda entry: entry["shots"]) if card else []
    if not episodes:
        return Prior()
    gains = [(math.log(entry["shots"]), entry[strategy]["gain"]) for entry in episodes]
    x = min(max(math.log(max(shots, 1.0)), gains[0][0]), gains[-1][0])
    for (low, first), (high, second) in pairwise(gains):
        if low <= x <= high:
            t = (x - low) / (high - low)
            return _prior(*((1 - t) * first[key] + t * second[key] for key in ("value", "deviation")))
    return _prior(gains[-1][1]["value"], gains[-1][1]["deviation"])


def _prior(mean: float, deviation: float) -> Prior:
    return Prior(mean=mean, deviation=max(deviation, LEAST_SPREAD))


def paired_gain(candidate_S: Tensor, baseline_S: Tensor, prior: Prior, *, worse_than_chance: bool) -> Gain:
    """Posterior of the mean difference of row scores (paired, on the comparable rows only).

    `worse_than_chance`: the candidate answers the held-out rows worse than guessing; with no comparable row that is all
    the target can say, and it is enough to refuse.
    """
    difference_S = candidate_S - baseline_S
    n_rows = len(difference_S)
    if n_rows == 0:
        return Gain(
            mean=prior.mean, deviation=prior.deviation, evidence=None, error=None, contradicted=worse_than_chance
        )
    evidence = float(difference_S.mean())
    squares = float((difference_S - evidence).square().sum()) + PSEUDO_ROWS * PSEUDO_DEVIATION**2
    error = math.sqrt(squares / (n_rows - 1 + PSEUDO_ROWS) / n_rows)
    precision, prior_precision = 1 / error**2, 1 / prior.deviation**2
    mean = (precision * evidence + prior_precision * prior.mean) / (precision + prior_precision)
    return Gain(
        mean=mean,
        deviation=(precision + prior_precision) ** -0.5,
        evidence=evidence,
        error=error,
        contradicted=worse_than_chance or evidence < -error,
    )


def is_worse_than_chance(outputs_ST: Tensor, support: LabelledSet) -> bool:
    """Whether held-out answers are worse than guessing: below-chance accuracy, or larger errors than the mean's."""
    if support.classes:
        hits = (outputs_ST.argmax(1) == support.labels_N).double().mean()
        return float(hits) < 1 / len(support.classes)
    labels_S = support.labels_N.double()
    # The mean of the other rows misses a held-out one by n / (n - 1) of its deviation: much, of a handful of rows.
    slack = max(1.5, (len(labels_S) / max(len(labels_S) - 1, 1)) ** 2 + 1e-6)
    return float(F.mse_loss(outputs_ST[:, 0], labels_S)) > slack * float(labels_S.var(correction=0)) + 1e-12


def choose(gains: Mapping[str, Gain], standard_errors: float) -> str:
    """The transfer candidate with the largest posterior gain among those that beat target_only, else target_only."""
    winners = {name: gain.mean for name, gain in gains.items() if gain.beats(standard_errors)}
    return max(winners, key=lambda name: winners[name]) if winners else "target_only"


def describe_choice(chosen: str, gains: Mapping[str, Gain], tried: Sequence[str]) -> str:
    """One sentence for the report."""
    if len(tried) == 1:
        return f"{chosen} was the only candidate."
    if chosen != "target_only":
        gain = gains[chosen]
        if gain.contradicted:  # auto never chooses such a one
            return f"{chosen} was asked for, although the target's held-out examples speak against it."
        return (
            f"{chosen} is expected to gain {gain.mean:+.3f} ± {gain.deviation:.3f} over target_only, "
            "and the target's held-out examples do not speak against it."
        )
    contradicted = sorted(name for name, gain in gains.items() if gain.contradicted)
    if contradicted and len(contradicted) == len(gains):
        return f"the target's held-out examples speak against {' and '.join(contradicted)}, so nothing is transferred."
    return "no transfer candidate beat target_only beyond the guard's margin, so nothing is transferred."
