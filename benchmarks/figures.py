"""What a scenario required and reached."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learning.tables import aligned


@dataclass(frozen=True)
class Figure:
    text: str
    required: str
    value: float
    reached: bool


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    lines = [(f.text, f.required, f"{f.value:g}", "reached" if f.reached else "not reached") for f in figures]
    return aligned(("measure", "required", "this run", "reached"), lines)
