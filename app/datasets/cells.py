"""One cell of a table: whatever the file's format, its text, or None where there is no value."""

import math
import re
from collections.abc import Sequence
from typing import TypeAlias

Cell: TypeAlias = str | None

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
_LONGEST_MISSING = max(map(len, _MISSING))
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INFINITY = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_NUMBER_CHARACTERS = frozenset("0123456789+-.eE ")


def is_missing(cell: Cell) -> bool:
    """None, blank, NA, N/A, NaN, null and ?, whatever their case."""
    if cell is None:
        return True
    text = cell.strip()
    return len(text) <= _LONGEST_MISSING and text.casefold() in _MISSING


def present(cells: Sequence[Cell]) -> Sequence[Cell]:
    """The cells that are not missing."""
    missing = {cell for cell in set(cells) if is_missing(cell)}
    return [cell for cell in cells if cell not in missing] if missing else cells


def number(cell: str) -> float | None:
    """The cell as a number, perhaps infinite (`1e999` is); None where it is none. Not every `float()` text is one."""
    text = cell.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return None


def finite_numbers(cells: Sequence[Cell]) -> list[float] | None:
    """All cells as finite numbers, NaN where missing; None where some cell is something else."""
    try:
        # The fast way for clean columns; the character check keeps out `nan`, `inf` and `1_000`, which float() reads.
        if not _NUMBER_CHARACTERS.issuperset("".join(cells)):  # type: ignore[arg-type]
            return _carefully(cells)
        values = [float(cell) for cell in cells]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _carefully(cells)
    return values if all(map(math.isfinite, values)) else None


def _carefully(cells: Sequence[Cell]) -> list[float] | None:
    values = {}
    for cell in set(cells):
        value = math.nan if cell is None or is_missing(cell) else number(cell)
        if value is None or math.isinf(value):
            return None
        values[cell] = value
    return [values[cell] for cell in cells]


def unstorable(text: str) -> str | None:
    """Why the text cannot be stored, or None: PostgreSQL refuses NUL, and no encoding carries a lone surrogate."""
    if "\0" in text:
        return "contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair"
    return None
