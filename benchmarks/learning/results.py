"""What a benchmark suite hands back: rows of figures, and goals that were reached or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the data lies, where encoded features may be kept between runs, and whether to run the short form."""

    data: Path
    cache: Path
    quick: bool


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
    """A figure that the suite has to reach: `required` in words, `value` what this run gave."""

    text: str
    required: str
    value: float
    reached: bool


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
    mean = sum(values) / len(values)
    half = 0.0
    if len(values) > 1:
        half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return Row(setting=setting, method=method, mean=mean, low=mean - half, high=mean + half, n=len(values))


def at_least(text: str, value: float, required: float, unit: str = "%") -> Goal:
    return Goal(text=text, required=f"at least {required:g} {unit}".strip(), value=value, reached=value >= required)


def at_most(text: str, value: float, required: float, unit: str = "") -> Goal:
    return Goal(text=text, required=f"at most {required:g} {unit}".strip(), value=value, reached=value <= required)
