"""What a benchmark suite hands back: rows of figures, and goals that were reached or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the data lies, where encoded features may be kept between runs, and whether to run the short form.

    `threads` are for encoding and for training an encoder. Everything else has one: its matrices are small, and
    threads would mostly wait for each other.
    """

    data: Path
    cache: Path
    quick: bool
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one setting: the mean over `n` runs (seeds, targets or episodes) with its 95 % interval."""

    setting: str
    method: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure that the suite has to reach: `required` in words, `value` what this run gave, with its interval."""

    text: str
    required: str
    value: float
    reached: bool
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """`unit` is that of every row. `notes` say what the figures do not."""

    name: str
    protocol: str
    unit: str
    rows: Sequence[Row]
    goals: Sequence[Goal]
    notes: Sequence[str] = field(default_factory=tuple)


def row(setting: str, method: str, values: Sequence[float]) -> Row:
    """The mean of `values` ± 1.96 standard errors."""
    mean, low, high = mean_interval(values)
    return Row(setting=setting, method=method, mean=mean, low=low, high=high, n=len(values))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and its ends 1.96 standard errors away; the mean itself where one value leaves no spread to estimate."""
    mean = sum(values) / len(values)
    half = 0.0
    if len(values) > 1:
        half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return mean, mean - half, mean + half


def at_least(
    text: str, value: float, required: float, unit: str = "%", *, interval: tuple[float, float] | None = None
) -> Goal:
    """Reached from `required` upward; the interval is shown, the mean decides."""
    wanted = f"at least {required:g} {unit}".strip()
    return Goal(text=text, required=wanted, value=value, reached=value >= required, interval=interval)


def at_most(
    text: str, value: float, required: float, unit: str = "", *, interval: tuple[float, float] | None = None
) -> Goal:
    """Reached from `required` downward; the interval is shown, the mean decides."""
    wanted = f"at most {required:g} {unit}".strip()
    return Goal(text=text, required=wanted, value=value, reached=value <= required, interval=interval)
