"""Columns of a table as numbers or as texts, from plain values or from the other kind."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learning.errors import InvalidData
from learning.types import Table

Kind: TypeAlias = Literal["numeric", "categorical"]

_MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "?"})
_NUMERIC_TEXTS = {"true": 1.0, "false": 0.0, "none": math.nan}


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
    """(N,) values of a column, NaN where missing or where the table lacks it; text is parsed."""
    if name in table.numeric:
        values = table.numeric[name]
    elif name in table.categorical:
        values = _parse_numeric(name, list(table.categorical[name]))
    else:
        values = np.full(len(table), np.nan)
    # Beyond these magnitudes differences and slopes leave the range of a float.
    return np.where(np.abs(values) < 1e-150, 0.0, np.clip(values, -1e150, 1e150))


def texts(name: str, table: Table, *, canonical: bool) -> list[str | None]:
    """Categories of a column, None where missing or where the table lacks it; numbers become text."""
    if name in table.categorical:
        column: list[str | None] = table.categorical[name].tolist()
        return [_canonical(text) for text in column] if canonical else column
    if name in table.numeric:
        return [_number_text(value) for value in table.numeric[name].tolist()]
    return [None] * len(table)


def _canonical(text: str | None) -> str | None:
    try:
        return None if text is None else _number_text(float(text))
    except ValueError:
        return text


def _number_text(value: float) -> str | None:
    return None if math.isnan(value) else f"{value + 0.0:.15g}"  # + 0.0: minus zero is zero


def _parse_numeric(name: str, values: Sequence[object]) -> NDArray[np.float64]:
    parsed = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            parsed[row] = _number(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidData(
                f"column '{name}', row {row + 1}: {value!r:.60} is not a finite number",
                hint="correct the value, leave it empty, or declare the column categorical",
            ) from error
    return parsed


def _number(value: Any) -> float:
    text = value.strip().casefold() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and text in _MISSING_TEXTS):
        return math.nan
    number = _NUMERIC_TEXTS[text] if text in _NUMERIC_TEXTS else float(value)
    # Python reads "1_000" as a number, people seldom do.
    if math.isinf(number) or "_" in text:
        raise ValueError(value)
    return number


def _parse_texts(values: Sequence[object]) -> NDArray[np.object_]:
    parsed = np.empty(len(values), dtype=object)
    parsed[:] = [_text(value) for value in values]
    return parsed


def _text(value: object) -> str | None:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float):
        return _number_text(value)
    text = "" if value is None else str(value).strip()
    return None if text.casefold() in _MISSING_TEXTS else text


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
