"""Columns of a table as numbers or as texts, from plain values or from the other kind."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learning.errors import InvalidData
from learning.standalone.table_reading import bounded, canonical, category, number, number_text
from learning.types import Table

Kind: TypeAlias = Literal["numeric", "categorical"]


def table_from_columns(columns: Mapping[str, Sequence[object]], kinds: Mapping[str, Kind]) -> Table:
    """A `Table` of plain values. Columns that `kinds` does not name are left out.

    Missing are None, NaN and, whatever their case, the texts "", "NA", "N/A", "NaN", "null" and "?" (in numeric columns
    "none" too). Numeric columns also read numbers in text and booleans; categorical ones turn all values into text.

    Raises:
        InvalidData: a value of a numeric column is no finite number (rows are counted from 1), columns differ in
            length, or there are none.
    """
    numeric = {name: _parse_numeric(name, columns[name]) for name in columns if kinds.get(name) == "numeric"}
    categorical = {name: _parse_texts(columns[name]) for name in columns if kinds.get(name) == "categorical"}
    if not numeric and not categorical:
        raise InvalidData("the table has no column of a known kind", hint=f"known columns: {', '.join(kinds)}")
    return Table(numeric=numeric, categorical=categorical)


def numbers(name: str, table: Table) -> NDArray[np.float64]:
    """`raw_numbers` within the magnitudes that can be worked with."""
    return bounded(raw_numbers(name, table))


def raw_numbers(name: str, table: Table) -> NDArray[np.float64]:
    """(N,) values of a column, NaN where missing or where the table lacks it; text is parsed."""
    if name in table.numeric:
        return table.numeric[name]
    if name in table.categorical:
        return _parse_numeric(name, list(table.categorical[name]))
    return np.full(len(table), np.nan)


def texts(name: str, table: Table, *, as_numbers: bool) -> list[str | None]:
    """Categories of a column, None where missing or where the table lacks it; numbers become text.

    `as_numbers`: so do texts that are numbers, one text for each.
    """
    if name in table.categorical:
        column: list[str | None] = table.categorical[name].tolist()
        return [canonical(text) for text in column] if as_numbers else column
    if name in table.numeric:
        return [number_text(value) for value in table.numeric[name].tolist()]
    return [None] * len(table)


def _parse_numeric(name: str, values: Sequence[object]) -> NDArray[np.float64]:
    parsed = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            parsed[row] = number(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidData(
                f"column '{name}', row {row + 1}: {value!r:.60} is not a finite number",
                hint="correct the value, leave it empty, or declare the column categorical",
            ) from error
    return parsed


def _parse_texts(values: Sequence[object]) -> NDArray[np.object_]:
    parsed = np.empty(len(values), dtype=object)
    parsed[:] = [category(value) for value in values]
    return parsed


def alignment_notes(name: str, tables: Sequence[Table], *, dropped: bool) -> list[str]:
    """One sentence for each way in which `tables` do not share the column; `dropped`: it has no value anywhere."""
    numeric = [i for i, table in enumerate(tables, start=1) if name in table.numeric]
    categorical = [i for i, table in enumerate(tables, start=1) if name in table.categorical]
    absent = sorted({*range(1, len(tables) + 1)} - {*numeric, *categorical})
    if dropped:
        return [f"column '{name}' has no value anywhere and is left out"]
    notes = []
    if absent:
        notes.append(f"column '{name}' is absent from {_listed(absent)} of {len(tables)} and counts as missing there")
    if numeric and categorical:
        notes.append(f"column '{name}' is numeric in {_listed(numeric)} but categorical in {_listed(categorical)}")
    return notes


def _listed(numbers: Sequence[int]) -> str:
    return f"table{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
