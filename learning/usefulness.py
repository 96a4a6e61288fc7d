"""Whether a model's held-out answers are worth anything: better than guessing, and by more than luck explains.

A model that is certainly worse than guessing is refused (`learning.assembly.refuse_useless`); of all others the report
warns where they are no better, or where chance alone could have made them as good.
"""

import math
from typing import Any

import torch
from torch import Tensor

from learning.folds import HeldOut
from learning.types import LabelledSet

#: A score that guessing reaches with a larger probability may be chance. Of five hundred models that learned nothing,
#: one may pass: they are many, and nobody looks at them one by one.
CHANCE = 0.002


def wilson_interval(hits: float, n: float) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def accuracy(outputs_ST: Tensor, labels_S: Tensor) -> tuple[float | None, list[float]]:
    """The share of right answers, None of no rows, and its 95 % interval."""
    hits = int((outputs_ST.argmax(1) == labels_S).sum())
    return (hits / len(labels_S) if len(labels_S) else None), list(wilson_interval(hits, len(labels_S)))


def explained(outputs_ST: Tensor, labels_S: Tensor) -> tuple[float | None, list[float]]:
    """1 - squared error relative to the labels' variance, with an interval from the rows' own errors."""
    if len(labels_S) < 2:
        return None, [-1.0, 1.0]
    variance = float(labels_S.double().var(correction=0)) or 1.0
    share_S = (outputs_ST[:, 0] - labels_S.double()).square() / variance
    half = 1.96 * float(share_S.std()) / math.sqrt(len(share_S))
    value = 1 - float(share_S.mean())
    return value, [value - half, value + half]


def usefulness_warnings(answers: HeldOut, useful_S: Tensor, support: LabelledSet) -> list[dict[str, Any]]:
    """Whether held-out answers beat always giving the majority class (or the mean), and beyond what luck explains."""
    labels_S, outputs_ST = support.labels_N[useful_S], answers.outputs_ST[useful_S]
    if not len(labels_S):
        return [
            make_warning("not_validated", "Too few examples per class to hold any out: nothing here was validated.")
        ]
    if not support.classes:
        return [*_worse_than_the_mean(outputs_ST, labels_S, len(support)), *_chance_of_errors(outputs_ST, labels_S)]
    n_rows, hits = len(labels_S), int((outputs_ST.argmax(1) == labels_S).sum())
    share = float(torch.bincount(support.labels_N).max()) / len(support)
    guessed = float(answers.majority_S[useful_S].double().mean())
    return [
        *_no_better_than_majority(hits, n_rows, share, guessed),
        *_chance_of_hits(hits, n_rows, max(share, guessed)),
    ]


def binomial_tail(hits: int, n: int, p: float) -> float:
    """P(at least `hits` of `n`) where each comes with probability `p` in (0, 1); exact to rounding, beyond the mean.

    At or below the mean 1 is answered: it is a half or more there, which nothing here tells from certainty.
    """
    if hits <= n * p:
        return 1.0
    log_term = math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1)
    log_term += hits * math.log(p) + (n - hits) * math.log1p(-p)
    term = tail = math.exp(log_term)
    for k in range(hits, n):
        term *= (n - k) / (k + 1) * p / (1 - p)
        tail += term
        if term < tail * 1e-17:
            break
    return min(tail, 1.0)


def make_warning(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _worse_than_the_mean(outputs_ST: Tensor, labels_S: Tensor, n_support: int) -> list[dict[str, Any]]:
    value, (_, high) = explained(outputs_ST, labels_S)
    # The mean of the other rows misses a held-out one by n / (n - 1) of its deviation.
    baseline = 1 - (n_support / (n_support - 1)) ** 2
    # On two rows, or constant features, nothing but rounding tells a model from the mean.
    if value is not None and high < baseline - 1e-6:
        return [make_warning("worse_than_majority", "Held-out answers are worse than always giving the mean label.")]
    return []


def _no_better_than_majority(hits: int, n_rows: int, share: float, guessed: float) -> list[dict[str, Any]]:
    # Heads of one small support err together: their hits vary as those of half as many independent rows do.
    if wilson_interval(hits / 2, n_rows / 2)[1] < guessed:
        message = f"Held-out accuracy {hits}/{n_rows} is worse than always giving the majority class."
        return [make_warning("worse_than_majority", message)]
    if hits <= share * n_rows:
        message = f"Held-out accuracy {hits}/{n_rows} does not beat the majority class ({share:.2f})."
        return [make_warning("no_better_than_majority", message)]
    return []


def _chance_of_hits(hits: int, n_rows: int, guessed: float) -> list[dict[str, Any]]:
    """An exact binomial test of the hits against those of the majority guess."""
    if binomial_tail(hits, n_rows, guessed) <= CHANCE:
        return []
    message = f"Held-out accuracy {hits}/{n_rows} may be chance: guessing gets {guessed:.0%} right. Add examples."
    return [make_warning("may_be_chance", message)]


def _chance_of_errors(outputs_ST: Tensor, labels_S: Tensor) -> list[dict[str, Any]]:
    """The same test of how many rows are answered nearer than by the mean of the others: half of them, by chance."""
    n_rows, labels_S = len(labels_S), labels_S.double()
    guess_S = (labels_S.sum() - labels_S) / max(n_rows - 1, 1)
    nearer = int(((outputs_ST[:, 0] - labels_S).abs() < (guess_S - labels_S).abs()).sum())
    if binomial_tail(nearer, n_rows, 0.5) <= CHANCE:
        return []
    message = (
        f"Only {nearer} of {n_rows} held-out answers are nearer than the mean label: it may be chance. Add examples."
    )
    return [make_warning("may_be_chance", message)]
