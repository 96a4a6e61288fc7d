"""What a scenario required and reached."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    text: str
    required: str
    value: float
    reached: bool


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    rows = [("measure", "required", "this run", "reached")]
    rows += [(f.text, f.required, f"{f.value:g}", "reached" if f.reached else "NOT reached") for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
