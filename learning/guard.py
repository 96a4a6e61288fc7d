"""The guard against negative transfer: leave target_only only for a candidate that clearly wins on the target itself.

Evidence is the paired difference of held-out scores on the target's rows. It is noisy at a few shots, so it is shrunk
toward what a card expects at this number of shots (a normal prior): the meta-learner's, or what the sources gain from
each other. Without a card, or where sources gain nothing from each other, a win has to be clearer. A card speaks of
honest sources, and those of a job may be mislabelled or of another matter: that is a second hypothesis, of a loss, and
what the sources' own heads say of the target's rows tells the two apart (`learning.misleading`). The posterior is the
mixture of both. A candidate replaces target_only only where the posterior gain lies beyond the asked number of its
deviations above zero *and* the target's own rows do not speak against it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from learning.types import LabelledSet

#: Spread of gains between tasks where no card tells it, and the least that a card is believed.
DEFAULT_SPREAD, LEAST_SPREAD = 0.15, 0.03
#: Two pseudo-rows of this deviation keep a handful of equal differences from looking certain.
PSEUDO_ROWS, PSEUDO_DEVIATION = 2.0, 0.3
#: Probability that sources mislead, before a row was seen: as often as meta-training makes them
#: (`EpisodeOptions.hostile`).
MISLEADING = 0.15
#: From this probability on a card's promise is void: misleading sources cost several times what honest ones gain.
DOUBT = 2 * MISLEADING
#: What misleading sources do: mean and spread of the gain.
MISLEADING_GAIN = (-0.08, 0.1)
#: Deviations that a gain which no card promises has to lie above zero at least: the open hyper-parameters of a transfer
#: learner that was not meta-trained were chosen on the very rows that are its evidence.
UNPROMISED = 1.0
#: What sources have to gain from each other to be a promise: they differ by a point of luck.
LEAST_PROMISE = 0.02


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Expected gain over target_only and its spread between tasks.

    `error` is the standard error of `mean` itself: all that is unknown of the gain to be expected where no row of the
    target can be compared; None: the spread. `promised`: whether a meta-learner stands behind it, or sources that gain
    from each other beyond doubt. `misled`: the probability that the sources mislead all the same
    (`learning.misleading`); None where their labels do not tell.
    """

    mean: float = 0.0
    deviation: float = DEFAULT_SPREAD
    error: float | None = None
    promised: bool = False
    misled: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the mean."""
        half = 1.96 * (self.error or 0.0)
        return self.mean - half, self.mean + half


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Posterior of a candidate's gain over target_only; `evidence` and `error` are the target's own, None without.

    `promised`: whether a card led to expect a gain, and the sources' own answers do not put it in doubt.
    """

    mean: float
    deviation: float
    evidence: float | None
    error: float | None
    contradicted: bool
    promised: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - 1.96 * self.deviation, self.mean + 1.96 * self.deviation

    def beats(self, standard_errors: float) -> bool:
        margin = standard_errors if self.promised else max(standard_errors, UNPROMISED)
        return not self.contradicted and self.mean > margin * self.deviation


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
    if not card or not episodes:
        return Prior()
    known = [(math.log(entry["shots"]), _prior(entry[strategy])) for entry in episodes]
    x = min(max(math.log(max(shots, 1.0)), known[0][0]), known[-1][0])
    found = known[-1][1]
    for (low, first), (high, second) in pairwise(known):
        if low <= x <= high:
            found = _between(first, second, (x - low) / (high - low))
            break
    return replace(found, promised=is_meta_trained(card) or _promises(found))


def is_meta_trained(card: Mapping[str, Any]) -> bool:
    """Whether it is a meta-learner's, and not one that the sources of a job made."""
    return bool(card.get("meta_trained", True))


def _promises(prior: Prior) -> bool:
    return prior.interval[0] > LEAST_PROMISE


def _prior(entry: Mapping[str, Any]) -> Prior:
    gain = entry["gain"]
    low, high = gain.get("interval", (gain["value"], gain["value"]))
    return Prior(
        mean=gain["value"],
        deviation=max(gain["deviation"], LEAST_SPREAD),
        error=(high - low) / (2 * 1.96) if high > low else None,
    )


def _between(first: Prior, second: Prior, t: float) -> Prior:
    def at(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else (1 - t) * a + t * b

    return Prior(
        promised=first.promised and second.promised,
        misled=first.misled,
        mean=(1 - t) * first.mean + t * second.mean,
        deviation=(1 - t) * first.deviation + t * second.deviation,
        error=at(first.error, second.error),
    )


def mixed_prior(priors: Sequence[Prior], shares: Sequence[float]) -> Prior:
    """Of an average of candidates. Averaging their expectations expects too little rather than too much of it."""
    mixed, total = priors[0], shares[0]
    for prior, share in zip(priors[1:], shares[1:], strict=True):
        total += share
        mixed = _between(mixed, prior, share / total)
    return mixed


def paired_gain(
    candidate_S: Tensor,
    baseline_S: Tensor,
    prior: Prior,
    *,
    worse_than_chance: bool,
    fewer_hits: bool = True,
) -> Gain:
    """Posterior of the mean difference of row scores (paired, on the comparable rows only).

    With no comparable row the card's expectation stands, less the probability that the sources mislead.
    `worse_than_chance`: the candidate answers the held-out rows worse than guessing. That speaks against it where
    `prior.misled` does not tell how far to trust the sources. `fewer_hits`: whether it gets fewer comparable rows right
    than target_only. Where it does not, as a card promised, and the rows have halved the suspicion of the sources,
    scores alone do not speak against it: of ten rows they mostly tell who is surer of the answers.
    """
    difference_S = candidate_S - baseline_S
    n_rows = len(difference_S)
    misled, promised = prior.misled or 0.0, prior.promised and (prior.misled or 0.0) < DOUBT
    guesses = worse_than_chance and prior.misled is None
    if n_rows == 0:
        expected = prior.deviation if prior.error is None else prior.error
        mean, deviation = _mixture((prior.mean, expected), MISLEADING_GAIN, misled)
        return Gain(
            mean=mean, deviation=deviation, evidence=None, error=None, contradicted=guesses,
            promised=promised,
        )  # fmt: skip
    evidence = float(difference_S.mean())
    squares = float((difference_S - evidence).square().sum()) + PSEUDO_ROWS * PSEUDO_DEVIATION**2
    error = math.sqrt(squares / (n_rows - 1 + PSEUDO_ROWS) / n_rows)
    as_promised = promised and prior.misled is not None and misled < MISLEADING / 2 and not fewer_hits
    honest = _posterior(prior.mean, prior.deviation, evidence, error)
    mean, deviation = _mixture(honest, _posterior(*MISLEADING_GAIN, evidence, error), misled)
    return Gain(
        mean=mean,
        deviation=deviation,
        evidence=evidence,
        error=error,
        contradicted=guesses or (evidence < -error and not as_promised),
        promised=promised,
    )


def _posterior(mean: float, deviation: float, evidence: float, error: float) -> tuple[float, float]:
    """Mean and deviation of a normal prior after normal evidence."""
    precision, prior_precision = 1 / error**2, 1 / deviation**2
    return (precision * evidence + prior_precision * mean) / (precision + prior_precision), (
        precision + prior_precision
    ) ** -0.5


def _mixture(first: tuple[float, float], second: tuple[float, float], share: float) -> tuple[float, float]:
    """Mean and deviation of two normals, the second with probability `share`."""
    mean = (1 - share) * first[0] + share * second[0]
    between = (1 - share) * (first[0] - mean) ** 2 + share * (second[0] - mean) ** 2
    return mean, math.sqrt((1 - share) * first[1] ** 2 + share * second[1] ** 2 + between)


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
