"""What every table format is turned into: batches of columns of cells, with the numbers of their rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.datasets.cells import Cell, number, unstorable
from app.datasets.findings import Findings, refuse, shown
from app.settings import Settings

BATCH_ROWS = 1_024
BATCH_CHARS = 8 * 2**20
MAX_COLUMN_NAME = 500


@dataclass(frozen=True)
class Batch:
    """Some rows, column by column. `rows` counts data rows from 1."""

    rows: Sequence[int]
    columns: Sequence[Sequence[Cell]]


class TableReader(Protocol):
    """A table on disk that can be read from the start any number of times, a bounded piece at a time."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def batches(self, findings: Findings) -> Iterator[Batch]:
        """The readable rows in file order; the others go to `findings`."""
        ...


def batched(rows: Iterable[tuple[int, Sequence[Cell], int]], width: int) -> Iterator[Batch]:
    """Batches of rows given as (number, cells, size in characters)."""
    numbers: list[int] = []
    cells: list[Sequence[Cell]] = []
    chars = 0
    for row, values, size in rows:
        numbers.append(row)
        cells.append(values)
        chars += size
        if len(numbers) == BATCH_ROWS or chars >= BATCH_CHARS:
            yield _transposed(numbers, cells, width)
            numbers, cells, chars = [], [], 0
    if numbers:
        yield _transposed(numbers, cells, width)


def _transposed(numbers: list[int], cells: list[Sequence[Cell]], width: int) -> Batch:
    return Batch(numbers, list(zip(*cells, strict=True)) if width else [])


def check_columns(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The column names, stripped.

    Raises:
        InvalidInput: there are too many, or one is missing, repeated, too long or cannot be stored.
    """
    if len(names) > settings.max_columns:
        message = f"The table has more than {settings.max_columns} columns."
        raise refuse("too_many_columns", message, hint="Leave out the columns that carry no information.")
    stripped = [name.strip() for name in names]
    for position, name in enumerate(stripped, start=1):
        _check_column(position, name)
    repeated = sorted({name for name in stripped if stripped.count(name) > 1}) if _has_repeats(stripped) else []
    if repeated:
        raise refuse("repeated_column", f"Column names occur more than once: {shown(repeated)}.", column=repeated[0])
    return tuple(stripped)


def _has_repeats(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _check_column(position: int, name: str) -> None:
    if not name:
        hint = "Name it, or write the file without its index column."
        raise refuse("unnamed_column", f"Column {position} has no name.", hint=hint)
    if len(name) > MAX_COLUMN_NAME:
        raise refuse("column_name_too_long", f"The name of column {position} is longer than {MAX_COLUMN_NAME}.")
    reason = unstorable(name)
    if reason:
        raise refuse("bad_column_name", f"The name of column {position} {reason}.")


def check_row(row: int, settings: Settings) -> None:
    """Raises `InvalidInput` for a row beyond the most; bad rows count too, for each is remembered."""
    if row > settings.max_examples:
        raise refuse("too_many_examples", f"The file has more than {settings.max_examples} rows.")


def check_header(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """`check_columns` for a header line, which must not be a row of numbers."""
    columns = check_columns(names, settings)
    if all(number(name) is not None for name in columns):
        raise refuse("no_header", "The first line holds only numbers.", hint="Put the names of the columns there.")
    return columns
