"""Columns of a table as features: how one is fitted, and what it makes of a value.

Letters in shape suffixes besides those of `learning.types`: K knots of one column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learning.encoders.columns import numbers, texts
from learning.standalone.table_reading import categorical_features
from learning.types import Table

MAX_SCORE = 3.0
#: Of a plain standard score: a straight line in a column should stay one, but for values that can only be errors.
MAX_STANDARD_SCORE = 5.0
MAX_KNOTS = 64
MAX_CATEGORIES = 100
#: A quantile score carries sampling noise (variance about (pi/2)/n at the median) but no bias, a z-score hardly any
#: noise but a bias b that stays (taken as 1/4 for a moderately skewed column). The mixture with least squared error
#: gives the quantile score the weight n / (n + (pi/2)/b^2), which is n / (n + 25). Chosen once, from this argument.
HALF_TRUST_ROWS = 25.0

_FLOATS = ("centre", "scale", "quantile_weight", "limit")


@dataclass(frozen=True, kw_only=True, eq=False)
class NumericColumn:
    """Piecewise linear normal scores through the knots, mixed with a z-score clipped at ±`limit`."""

    name: str
    knots_K: NDArray[np.float64]
    scores_K: NDArray[np.float64]
    centre: float
    scale: float
    quantile_weight: float
    indicator: bool
    limit: float = MAX_SCORE

    @property
    def width(self) -> int:
        return 1 + self.indicator

    def curve(self) -> dict[str, Any]:
        """As `NumericColumns` takes it."""
        floats = {name: getattr(self, name) for name in _FLOATS}
        return {"knots": self.knots_K, "scores": self.scores_K, "indicator": self.indicator, **floats}

    def rescaled(self, tables: Sequence[Table]) -> "NumericColumn":
        values_N = np.concatenate([numbers(self.name, table) for table in tables])
        if np.isnan(values_N).all():
            return self
        fit = _fit_standard if self.limit == MAX_STANDARD_SCORE else _fit_numeric
        return replace(fit(self.name, values_N), indicator=self.indicator)

    def header(self) -> dict[str, Any]:
        floats = {name: getattr(self, name) for name in _FLOATS}
        shape = {"knots": len(self.knots_K), "indicator": self.indicator}
        return {"name": self.name, "kind": "numeric", **floats, **shape}


@dataclass(frozen=True, kw_only=True, eq=False)
class CategoricalColumn:
    """One feature per category, then "other" if rare ones were cut off, then "missing" if there were gaps.

    A value never seen is all zeros, or "other" where that exists: there the rare names seen are not kept, so new and
    rare look alike. `canonical` columns were numeric in some tables: "3", "3.0" and 3 are one category there.
    """

    name: str
    categories: tuple[str, ...]
    other: bool
    indicator: bool
    canonical: bool

    @property
    def width(self) -> int:
        return len(self.categories) + self.other + self.indicator

    def transform(self, table: Table) -> NDArray[np.float64]:
        values = texts(self.name, table, as_numbers=self.canonical)
        return categorical_features(values, categories=self.categories, other=self.other, indicator=self.indicator)

    def rescaled(self, tables: Sequence[Table]) -> "CategoricalColumn":  # noqa: ARG002 - a category has no scale
        return self

    def header(self) -> dict[str, Any]:
        flags = {"other": self.other, "indicator": self.indicator, "canonical": self.canonical}
        return {"name": self.name, "kind": "categorical", "categories": list(self.categories), **flags}


def fit_column(name: str, tables: Sequence[Table], *, standard: bool) -> NumericColumn | CategoricalColumn | None:
    """None where no table has a value. A column without values has no say in what kind it is."""
    numeric = any(name in table.numeric and not np.isnan(table.numeric[name]).all() for table in tables)
    categorical = any(text is not None for table in tables for text in table.categorical.get(name, ()))
    if categorical:
        return _fit_categorical(name, tables, canonical=numeric)
    if not numeric:
        return None
    values_N = np.concatenate([numbers(name, table) for table in tables])
    return _fit_standard(name, values_N) if standard else _fit_numeric(name, values_N)


def _fit_standard(name: str, values_N: NDArray[np.float64]) -> NumericColumn:
    known = values_N[~np.isnan(values_N)]
    # Dividing first keeps sums and squares of the largest floats finite.
    largest = float(np.abs(known).max()) or 1.0
    return NumericColumn(
        name=name,
        knots_K=np.zeros(1),
        scores_K=np.zeros(1),
        centre=float((known / largest).mean()) * largest,
        scale=(float((known / largest).std()) * largest) or 1.0,
        quantile_weight=0.0 if len(np.unique(known)) > 1 else 1.0,
        indicator=len(known) < len(values_N),
        limit=MAX_STANDARD_SCORE,
    )


def _fit_numeric(name: str, values_N: NDArray[np.float64]) -> NumericColumn:
    known = np.sort(values_N[~np.isnan(values_N)])
    knots_K, scores_K = _normal_scores(known)
    lower, centre, upper = np.quantile(known, [0.25, 0.5, 0.75])
    # 1.349: the interquartile range of a standard normal. It is zero where half the values are equal.
    scale = float(upper - lower) / 1.349 or float(known.std())
    return NumericColumn(
        name=name,
        knots_K=knots_K,
        scores_K=scores_K,
        centre=float(centre),
        scale=scale or 1.0,
        # A constant column has no scale, so whatever comes later gets the constant's score, zero.
        quantile_weight=len(known) / (len(known) + HALF_TRUST_ROWS) if len(knots_K) > 1 else 1.0,
        indicator=len(known) < len(values_N),
    )


def _normal_scores(known: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most 64 distinct values, evenly spaced in rank and both ends included, and their mid-rank normal scores."""
    values, counts = np.unique(known, return_counts=True)
    rank = (counts.cumsum() - counts / 2) / len(known)
    if len(values) > MAX_KNOTS:
        keep = np.unique(np.searchsorted(rank, np.linspace(rank[0], rank[-1], MAX_KNOTS)))
        values, rank = values[keep], rank[keep]
    scores = torch.special.ndtri(torch.from_numpy(rank)).numpy()
    return values, np.clip(scores, -MAX_SCORE, MAX_SCORE)


def _fit_categorical(name: str, tables: Sequence[Table], *, canonical: bool) -> CategoricalColumn:
    counts = Counter(text for table in tables for text in texts(name, table, as_numbers=canonical))
    indicator = counts.pop(None, 0) > 0
    by_frequency = sorted(((-count, text) for text, count in counts.items() if text is not None))
    kept = tuple(text for _, text in by_frequency[:MAX_CATEGORIES])
    return CategoricalColumn(
        name=name, categories=kept, other=len(by_frequency) > len(kept), indicator=indicator, canonical=canonical
    )


def restore_column(header: Mapping[str, Any], knots: Tensor, scores: Tensor) -> NumericColumn | CategoricalColumn:
    name, indicator = str(header["name"]), bool(header["indicator"])
    if header["kind"] == "categorical":
        flags = {key: bool(header[key]) for key in ("other", "canonical")}
        return CategoricalColumn(name=name, categories=tuple(header["categories"]), indicator=indicator, **flags)
    floats = {key: float(header.get(key, MAX_SCORE) if key == "limit" else header[key]) for key in _FLOATS}
    return NumericColumn(name=name, knots_K=knots.numpy(), scores_K=scores.numpy(), indicator=indicator, **floats)
