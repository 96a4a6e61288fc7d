"""One pass over a table: what its columns look like, and which cells could not be stored."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from app.datasets.cells import Cell, finite_numbers, is_missing, number, present, unstorable
from app.datasets.findings import Findings
from app.datasets.rows import TableReader, check_row
from app.settings import Settings

#: Distinct values are counted up to here.
MAX_DISTINCT = 1_001
_SAMPLED_FOR_WORDS = 10_000
_FREE_TEXT_WORDS, _FREE_TEXT_CHARS = 3.0, 20.0


@dataclass
class ColumnProfile:
    """What is known of one column. Missing cells count in `n` alone."""

    name: str
    n: int = 0
    n_values: int = 0
    n_numbers: int = 0
    n_integers: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    odd_row: int | None = None
    """The first row whose value is no number."""
    n_common: int = 0
    """Cells equal to the most common cell of the first batch."""
    n_sampled: int = 0
    words: int = 0
    chars: int = 0
    _common: Cell = None
    _distinct: set[int] = field(default_factory=set)

    def update(self, rows: Sequence[int], cells: Sequence[Cell]) -> None:
        if self.n == 0:
            self._common = Counter(cells).most_common(1)[0][0]
        self.n += len(cells)
        self.n_common += cells.count(self._common)
        values = present(cells)
        self.n_values += len(values)
        if len(self._distinct) < MAX_DISTINCT:
            # Hashes, because a thousand long texts would be large.
            self._distinct.update(map(hash, values))
        self._update_numbers(rows, cells)
        if not self.is_numeric:
            self._sample_words(values[: max(0, _SAMPLED_FOR_WORDS - self.n_sampled)])

    def _sample_words(self, values: Sequence[Cell]) -> None:
        self.n_sampled += len(values)
        self.words += sum(len(value.split()) for value in values if value)
        self.chars += sum(map(len, filter(None, values)))

    def _update_numbers(self, rows: Sequence[int], cells: Sequence[Cell]) -> None:
        if self.odd_row is not None and self.n_numbers < self.n_values / 2:
            return  # plainly no numeric column; how many numbers it has does not matter
        values = finite_numbers(cells)
        numbers = np.array(self._sift(rows, cells) if values is None else values)
        numbers = numbers[~np.isnan(numbers)]
        if len(numbers):
            self.lowest = min(self.lowest, float(numbers.min()))
            self.highest = max(self.highest, float(numbers.max()))
        self.n_numbers += len(numbers)
        self.n_integers += int((np.isfinite(numbers) & (np.floor(numbers) == numbers)).sum())

    def _sift(self, rows: Sequence[int], cells: Sequence[Cell]) -> list[float]:
        numbers = []
        for row, cell in zip(rows, cells, strict=True):
            if cell is None or is_missing(cell):
                continue
            value = number(cell)
            if value is not None:
                numbers.append(value)
            elif self.odd_row is None:
                self.odd_row = row
        return numbers

    @property
    def distinct(self) -> int:
        """Distinct values, exact below `MAX_DISTINCT`."""
        return min(len(self._distinct), MAX_DISTINCT)

    @property
    def is_numeric(self) -> bool:
        """Whether every value is a number; a column without values counts as numeric too."""
        return self.odd_row is None

    @property
    def is_integral(self) -> bool:
        return self.is_numeric and self.n_integers == self.n_values

    @property
    def is_free_text(self) -> bool:
        """Three words or twenty characters on average, and mostly different from row to row."""
        if self.is_numeric or self.n_sampled == 0:
            return False
        is_long = self.words / self.n_sampled >= _FREE_TEXT_WORDS or self.chars / self.n_sampled >= _FREE_TEXT_CHARS
        return is_long and self.distinct > min(self.n_values / 2, MAX_DISTINCT - 1)


@dataclass
class TableProfile:
    columns: dict[str, ColumnProfile]
    n_rows: int = 0


def profile_table(reader: TableReader, settings: Settings, findings: Findings) -> TableProfile:
    """The profile of all rows. Rows that cannot be read and cells that cannot be stored go to `findings`.

    Raises:
        InvalidInput: there are too many rows.
    """
    profile = TableProfile({name: ColumnProfile(name) for name in reader.columns})
    for batch in reader.batches(findings):
        profile.n_rows += len(batch.rows)
        check_row(batch.rows[-1], settings)
        for column, cells in zip(profile.columns.values(), batch.columns, strict=True):
            _screen(column.name, batch.rows, cells, settings.max_text_chars, findings)
            column.update(batch.rows, cells)
    return profile


def _screen(name: str, rows: Sequence[int], cells: Sequence[Cell], max_chars: int, findings: Findings) -> None:
    """Reports the cells that could not be stored. The joined text is searched first, which is quick."""
    joined = "".join(filter(None, cells))
    if len(joined) <= max_chars and unstorable(joined) is None:
        return
    for row, cell in zip(rows, cells, strict=True):
        if cell is None:
            continue
        reason = unstorable(cell)
        if reason:
            findings.row(row, "bad_characters", reason, column=name, hint="Remove it.")
        if len(cell) > max_chars:
            message = f"has {len(cell)} characters, more than {max_chars}"
            findings.row(row, "text_too_long", message, column=name, hint="Shorten the text.")
