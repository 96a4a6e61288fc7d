"""Cells of a table as numbers, texts and features, by numpy alone: exported models read rows with this very file.

Letters in shape suffixes: N rows, K knots of one column.
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


def bounded(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Beyond these magnitudes differences and slopes leave the range of a float."""
    return np.where(np.abs(values_N) < 1e-150, 0.0, np.clip(values_N, -1e150, 1e150))


def numeric_features(
    values_N: NDArray[np.float64],
    *,
    knots: NDArray[np.float64],
    scores: NDArray[np.float64],
    centre: float,
    scale: float,
    quantile_weight: float,
    limit: float,
    indicator: bool,
) -> NDArray[np.float64]:
    """(N, 1 or 2): scores between the knots (K,), mixed with a z-score clipped at ±`limit`; then the missing ones."""
    missing_N = np.isnan(values_N)
    quantile_N = np.interp(values_N, knots, scores)
    z_N = np.clip((values_N - centre) / scale, -limit, limit)
    mixed_N = quantile_weight * quantile_N + (1 - quantile_weight) * z_N
    return np.stack([np.where(missing_N, 0.0, mixed_N), missing_N.astype(np.float64)][: 1 + indicator], axis=1)


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
    return side_by_side([_block(rows, kinds.get(column["name"]), dict(column)) for column in columns])


def _block(rows: Sequence[Mapping[str, Any]], read_as: str | None, column: dict[str, Any]) -> NDArray[np.float64]:
    name, kind = column.pop("name"), column.pop("kind")
    values = [row.get(name) if read_as else None for row in rows]
    if kind == "numeric":
        texts = [category(value) if read_as == "categorical" else value for value in values]
        return numeric_features(bounded(_numbers(name, texts)), **column)
    if read_as == "numeric":
        texts_N = [number_text(value) for value in _numbers(name, values).tolist()]
    else:
        texts_N = [canonical(category(value)) if column["canonical"] else category(value) for value in values]
    flags = {key: value for key, value in column.items() if key != "canonical"}
    return categorical_features(texts_N, **flags)


def _numbers(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    found = np.empty(len(values))
    for place, value in enumerate(values):
        try:
            found[place] = number(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column '{name}': {value!r:.60} is not a finite number") from error
    return found
