"""Percentiles, and medians with intervals that assume nothing of how the figures are distributed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Median:
    """The median of `n` repeats with the ends of its interval.

    The ends are order statistics: between the k-th smallest and the k-th largest of n values lies the true median with
    a probability that only the binomial distribution decides. Fewer than six values cannot reach 95 %; then the ends
    are the smallest and the largest, and `confidence` says what these reach.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float]) -> Median:
    """Raises `ValueError` where there are no values."""
    if not values:
        raise ValueError("no values")
    ordered, n = sorted(values), len(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    depth = 0
    while depth + 1 < n / 2 and _coverage(n, depth + 1) >= CONFIDENCE:
        depth += 1
    return Median(value=middle, low=ordered[depth], high=ordered[n - 1 - depth], n=n, confidence=_coverage(n, depth))


def _coverage(n: int, depth: int) -> float:
    """Probability that the median lies between the ends when `depth` values are left out on either side."""
    return 1 - 2 * sum(math.comb(n, k) for k in range(depth + 1)) / 2**n if n > 1 else 0.0


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of figures that were taken side by side."""
    return [value / other for value, other in zip(values, others, strict=True)]
