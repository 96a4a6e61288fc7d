"""Cells of a table as numbers, texts and features, by numpy alone: exported models read rows with this very file.

Letters in shape suffixes: N rows, C numeric columns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "?"})
NUMERIC_TEXTS = {"true": 1.0, "false": 0.0, "none": math.nan}


def number(value: Any) -> float:
    """NaN where missing. Raises `ValueError`, `TypeError` or `OverflowError` where the value is no finite number."""
    text = value.strip().casefold() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and text in MISSING_TEXTS):
        return math.nan
    found = NUMERIC_TEXTS[text] if text in NUMERIC_TEXTS else float(value)
    # Python reads "1_000" as a number, people seldom do.
    if math.isinf(found) or "_" in text:
        raise ValueError(value)
    return found


def category(value: object) -> str | None:
    """The value as a text, None where missing."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float):
        return number_text(value)
    text = "" if value is None else str(value).strip()
    return None if text.casefold() in MISSING_TEXTS else text


def number_text(value: float) -> str | None:
    """One text for equal numbers, None of NaN."""
    return None if math.isnan(value) else f"{value + 0.0:.15g}"  # + 0.0: minus zero is zero


def canonical(text: str | None) -> str | None:
    """The text, one of all that are the same number."""
    try:
        return None if text is None else number_text(float(text))
    except ValueError:
        return text


def bounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Beyond these magnitudes differences and slopes leave the range of a float."""
    return np.where(np.abs(values) < 1e-150, 0.0, np.clip(values, -1e150, 1e150))


class NumericColumns:
    """What was fitted to C columns of numbers. All are worked out at once: rows come one at a time.

    `columns` have `knots` and their `scores`, `centre`, `scale`, `limit`, `quantile_weight` and `indicator` each.
    """

    def __init__(self, columns: Sequence[Mapping[str, Any]]) -> None:
        def all_of(name: str) -> NDArray[np.float64]:
            return np.array([column[name] for column in columns], dtype=np.float64)

        self._curves = [(np.asarray(column["knots"]), np.asarray(column["scores"])) for column in columns]
        self._widths = [1 + bool(column["indicator"]) for column in columns]
        self._centre_C, self._scale_C, self._limit_C = all_of("centre"), all_of("scale"), all_of("limit")
        self._quantile_weight_C = all_of("quantile_weight")

    def features(self, values_NC: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """(N, 1 or 2) of each: scores between the knots mixed with a z-score within ±`limit`; then what is missing."""
        values_NC = bounded(values_NC)
        missing_NC = np.isnan(values_NC)
        quantile_NC = np.empty(values_NC.shape)
        for place, (knots, scores) in enumerate(self._curves):
            quantile_NC[:, place] = np.interp(values_NC[:, place], knots, scores)
        z_NC = np.clip((values_NC - self._centre_C) / self._scale_C, -self._limit_C, self._limit_C)
        mixed_NC = self._quantile_weight_C * quantile_NC + (1 - self._quantile_weight_C) * z_NC
        both_NC2 = np.stack([np.where(missing_NC, 0.0, mixed_NC), missing_NC], axis=2)
        return [both_NC2[:, place, :width] for place, width in enumerate(self._widths)]


def categorical_features(
    texts_N: Sequence[str | None], *, categories: Sequence[str], other: bool, indicator: bool
) -> NDArray[np.float64]:
    """One feature per category, then "other" and "missing" where the column has them; a value never seen is zeros."""
    position = {text: i for i, text in enumerate(categories)}
    n_known = len(categories)
    width = n_known + other + indicator
    # A feature just past the end collects whatever has no feature of its own, and is then cut off.
    unseen = n_known if other else width
    missing = n_known + other if indicator else width
    index_N = [missing if text is None else position.get(text, unseen) for text in texts_N]
    onehot = np.zeros((len(texts_N), width + 1))
    onehot[np.arange(len(texts_N)), index_N] = 1.0
    return onehot[:, :width]


def side_by_side(blocks: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """The features of all columns; their mean squared norm does not depend on how many columns there are."""
    return (np.concatenate(blocks, axis=1) / math.sqrt(len(blocks))).astype(np.float32)


def table_features(
    rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], columns: Sequence[Mapping[str, Any]]
) -> NDArray[np.float32]:
    """The features of rows given as mappings. What a row lacks is missing, what no column names is ignored.

    `kinds` says how the values of each column are read (numeric, categorical), `columns` what was fitted to them.

    Raises:
        ValueError: a row has none of the columns, or text in a numeric one.
    """
    if not all(any(name in row for name in kinds) for row in rows):
        raise ValueError(f"a row has none of the model's columns: {', '.join(list(kinds)[:10])}")
    numeric = [column for column in columns if column["kind"] == "numeric"]
    values_NC = np.empty((len(rows), len(numeric)))
    for place, column in enumerate(numeric):
        values_NC[:, place] = _column_numbers(rows, column["name"], kinds.get(column["name"]))
    numbers_of = iter(NumericColumns(numeric).features(values_NC))
    return side_by_side([
        next(numbers_of) if column["kind"] == "numeric" else _onehot(rows, kinds.get(column["name"]), column)
        for column in columns
    ])  # fmt: skip


def _column_numbers(rows: Sequence[Mapping[str, Any]], name: str, read_as: str | None) -> NDArray[np.float64]:
    values = [row.get(name) if read_as else None for row in rows]
    return _numbers(name, [category(value) for value in values] if read_as == "categorical" else values)


def _onehot(rows: Sequence[Mapping[str, Any]], read_as: str | None, column: Mapping[str, Any]) -> NDArray[np.float64]:
    name = column["name"]
    values = [row.get(name) if read_as else None for row in rows]
    if read_as == "numeric":
        texts_N = [number_text(value) for value in _numbers(name, values).tolist()]
    else:
        texts_N = [canonical(category(value)) if column["canonical"] else category(value) for value in values]
    return categorical_features(
        texts_N, categories=column["categories"], other=column["other"], indicator=column["indicator"]
    )


def _numbers(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    found = np.empty(len(values))
    for place, value in enumerate(values):
        try:
            found[place] = number(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column '{name}': {value!r:.60} is not a finite number") from error
    return found
