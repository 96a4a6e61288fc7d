"""Tables to features: quantile-normalised numbers, one-hot categories, optionally random Fourier features.

Letters in shape suffixes besides those of `learning.types`: K knots of one column, R random Fourier features.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learning.encoders.columns import alignment_notes, numbers, table_from_columns, texts
from learning.errors import InvalidArtifact, InvalidData
from learning.types import Inputs, Table

__all__ = ["FittedQuantileFeaturiser", "QuantileFeaturiser", "table_from_columns"]

MAX_SCORE = 3.0
#: Of a plain standard score: a straight line in a column should stay one, but for values that can only be errors.
MAX_STANDARD_SCORE = 5.0
MAX_KNOTS = 64
MAX_CATEGORIES = 100
#: A quantile score carries sampling noise (variance about (pi/2)/n at the median) but no bias, a z-score hardly any
#: noise but a bias b that stays (taken as 1/4 for a moderately skewed column). The mixture with least squared error
#: gives the quantile score the weight n / (n + (pi/2)/b^2), which is n / (n + 25). Chosen once, from this argument.
HALF_TRUST_ROWS = 25.0


@dataclass(frozen=True, kw_only=True)
class QuantileFeaturiser:
    """Fits on one or more tables (the target's and the sources'); implements `learning.types.Featuriser`.

    Columns are aligned by name over the union of schemas. A number becomes a mixture of its normal score and its
    robust z-score, within ±3, missing as 0 with an indicator column if the column had gaps at fit time. A category
    becomes one-hot. Rows are divided by the root of the number of input columns, so that their mean squared norm at
    fit time is about one whatever the schema. `random_fourier` appends that many random Fourier features of a Gaussian
    kernel of unit bandwidth, drawn from `seed` (Rahimi & Recht 2007, algorithm 1).

    `standard`: a number becomes its plain standard score within ±5 instead. Bending a column helps to tell classes
    apart, but takes from a regression the straight lines that it lives on.
    """

    random_fourier: int = 0
    seed: int = 0
    standard: bool = False

    def fit(self, parts: Sequence[Inputs]) -> "FittedQuantileFeaturiser":
        """The fitted featuriser; it depends on the rows of `parts`, not on their order.

        Raises:
            InvalidData: a part is no `Table`, or no column has a value.
        """
        tables = [_as_table(part) for part in parts]
        names = sorted({name for table in tables for name in (*table.numeric, *table.categorical)})
        fitted = {name: _fit_column(name, tables, standard=self.standard) for name in names}
        columns = tuple(column for column in fitted.values() if column is not None)
        if not columns:
            raise InvalidData("no column of the table has a value", hint="send at least one row with one known value")
        weight_FR, phase_R = _draw_fourier(sum(c.width for c in columns), self.random_fourier, self.seed)
        alignment = [note for name in names for note in alignment_notes(name, tables, dropped=fitted[name] is None)]
        return FittedQuantileFeaturiser(
            columns=columns, alignment=alignment, fourier_weight_FR=weight_FR, fourier_phase_R=phase_R
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedQuantileFeaturiser:
    """A fixed map from tables to features; implements `learning.types.FittedFeaturiser`.

    `alignment` holds one sentence for each column that not all fitted tables share or that was left out.
    """

    columns: tuple["_NumericColumn | _CategoricalColumn", ...]
    alignment: list[str]
    fourier_weight_FR: Tensor
    fourier_phase_R: Tensor
    graft: ClassVar[str] = ""

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns) + self.fourier_phase_R.shape[0]

    def transform(self, inputs: Inputs) -> Tensor:
        """(N, width) float32. Columns the table lacks count as missing, columns unknown at fit time are ignored.

        Raises:
            InvalidData: `inputs` is no `Table`, shares no column, or has text in a column fitted as numeric.
        """
        table = _as_table(inputs)
        if not any(column.name in table.numeric or column.name in table.categorical for column in self.columns):
            known = ", ".join(column.name for column in self.columns[:10])
            raise InvalidData("the table has none of the columns this model was fitted on", hint=f"columns: {known}")
        blocks = [column.transform(table) for column in self.columns]
        rows_NF = torch.from_numpy(np.concatenate(blocks, axis=1) / math.sqrt(len(self.columns))).float()
        n_fourier = self.fourier_phase_R.shape[0]
        if n_fourier == 0:
            return rows_NF
        waves_NR = (rows_NF @ self.fourier_weight_FR + self.fourier_phase_R).cos() * math.sqrt(2 / n_fourier)
        # Both halves have unit mean squared norm, and so must the whole.
        return torch.cat([rows_NF, waves_NR], dim=1) / math.sqrt(2)

    def rescaled(self, parts: Sequence[Inputs]) -> Self:
        """The same features, with the centre and the scale that numbers have in these tables.

        Raises:
            InvalidData: a part is no `Table`, or has text in a column fitted as numeric.
        """
        tables = [_as_table(part) for part in parts]
        return replace(self, columns=tuple(column.rescaled(tables) for column in self.columns))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able header from which `from_state` restores this featuriser bit by bit."""
        numeric = [column for column in self.columns if isinstance(column, _NumericColumn)]
        empty = np.zeros(0)
        tensors = {
            "knots": torch.from_numpy(np.concatenate([empty, *(column.knots_K for column in numeric)])),
            "scores": torch.from_numpy(np.concatenate([empty, *(column.scores_K for column in numeric)])),
            "fourier_weight": self.fourier_weight_FR,
            "fourier_phase": self.fourier_phase_R,
        }
        return tensors, {"columns": [column.header() for column in self.columns], "alignment": list(self.alignment)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        """The featuriser that `state` described.

        Raises:
            InvalidArtifact: the parts do not fit together.
        """
        try:
            counts = [int(column.get("knots", 0)) for column in header["columns"]]
            knots, scores = (torch.split(tensors[key].double(), counts) for key in ("knots", "scores"))
            columns = tuple(map(_restore_column, header["columns"], knots, scores))
            alignment = [str(note) for note in header["alignment"]]
            weight_FR, phase_R = tensors["fourier_weight"].float(), tensors["fourier_phase"].float()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InvalidArtifact(f"the state of the tabular featuriser is damaged: {error!r}") from error
        if weight_FR.shape != (sum(column.width for column in columns), *phase_R.shape):
            raise InvalidArtifact(f"the tabular featuriser is damaged: Fourier weights are {tuple(weight_FR.shape)}")
        return cls(columns=columns, alignment=alignment, fourier_weight_FR=weight_FR, fourier_phase_R=phase_R)


_FLOATS = ("centre", "scale", "quantile_weight", "limit")


@dataclass(frozen=True, kw_only=True, eq=False)
class _NumericColumn:
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

    def transform(self, table: Table) -> NDArray[np.float64]:
        values_N = numbers(self.name, table)
        missing_N = np.isnan(values_N)
        quantile_N = np.interp(values_N, self.knots_K, self.scores_K)
        z_N = np.clip((values_N - self.centre) / self.scale, -self.limit, self.limit)
        mixed_N = self.quantile_weight * quantile_N + (1 - self.quantile_weight) * z_N
        return np.stack([np.where(missing_N, 0.0, mixed_N), missing_N.astype(np.float64)][: self.width], axis=1)

    def rescaled(self, tables: Sequence[Table]) -> "_NumericColumn":
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
class _CategoricalColumn:
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
        position = {category: i for i, category in enumerate(self.categories)}
        n_known = len(self.categories)
        # A feature just past the end collects whatever has no feature of its own, and is then cut off.
        unseen = n_known if self.other else self.width
        missing = n_known + self.other if self.indicator else self.width
        values = texts(self.name, table, canonical=self.canonical)
        index_N = [missing if text is None else position.get(text, unseen) for text in values]
        onehot = np.zeros((len(table), self.width + 1))
        onehot[np.arange(len(table)), index_N] = 1.0
        return onehot[:, : self.width]

    def rescaled(self, tables: Sequence[Table]) -> "_CategoricalColumn":  # noqa: ARG002 - a category has no scale
        return self

    def header(self) -> dict[str, Any]:
        flags = {"other": self.other, "indicator": self.indicator, "canonical": self.canonical}
        return {"name": self.name, "kind": "categorical", "categories": list(self.categories), **flags}


def _fit_column(name: str, tables: Sequence[Table], *, standard: bool) -> _NumericColumn | _CategoricalColumn | None:
    """None where no table has a value. A column without values has no say in what kind it is."""
    numeric = any(name in table.numeric and not np.isnan(table.numeric[name]).all() for table in tables)
    categorical = any(text is not None for table in tables for text in table.categorical.get(name, ()))
    if categorical:
        return _fit_categorical(name, tables, canonical=numeric)
    if not numeric:
        return None
    values_N = np.concatenate([numbers(name, table) for table in tables])
    return _fit_standard(name, values_N) if standard else _fit_numeric(name, values_N)


def _fit_standard(name: str, values_N: NDArray[np.float64]) -> _NumericColumn:
    known = values_N[~np.isnan(values_N)]
    # Dividing first keeps sums and squares of the largest floats finite.
    largest = float(np.abs(known).max()) or 1.0
    return _NumericColumn(
        name=name,
        knots_K=np.zeros(1),
        scores_K=np.zeros(1),
        centre=float((known / largest).mean()) * largest,
        scale=(float((known / largest).std()) * largest) or 1.0,
        quantile_weight=0.0 if len(np.unique(known)) > 1 else 1.0,
        indicator=len(known) < len(values_N),
        limit=MAX_STANDARD_SCORE,
    )


def _fit_numeric(name: str, values_N: NDArray[np.float64]) -> _NumericColumn:
    known = np.sort(values_N[~np.isnan(values_N)])
    knots_K, scores_K = _normal_scores(known)
    lower, centre, upper = np.quantile(known, [0.25, 0.5, 0.75])
    # 1.349: the interquartile range of a standard normal. It is zero where half the values are equal.
    scale = float(upper - lower) / 1.349 or float(known.std())
    return _NumericColumn(
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


def _fit_categorical(name: str, tables: Sequence[Table], *, canonical: bool) -> _CategoricalColumn:
    counts = Counter(text for table in tables for text in texts(name, table, canonical=canonical))
    indicator = counts.pop(None, 0) > 0
    by_frequency = sorted(((-count, text) for text, count in counts.items() if text is not None))
    kept = tuple(text for _, text in by_frequency[:MAX_CATEGORIES])
    return _CategoricalColumn(
        name=name, categories=kept, other=len(by_frequency) > len(kept), indicator=indicator, canonical=canonical
    )


def _draw_fourier(width: int, n_fourier: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight_FR = torch.randn(width, n_fourier, generator=generator)
    return weight_FR, 2 * math.pi * torch.rand(n_fourier, generator=generator)


def _restore_column(header: Mapping[str, Any], knots: Tensor, scores: Tensor) -> _NumericColumn | _CategoricalColumn:
    name, indicator = str(header["name"]), bool(header["indicator"])
    if header["kind"] == "categorical":
        flags = {key: bool(header[key]) for key in ("other", "canonical")}
        return _CategoricalColumn(name=name, categories=tuple(header["categories"]), indicator=indicator, **flags)
    floats = {key: float(header.get(key, MAX_SCORE) if key == "limit" else header[key]) for key in _FLOATS}
    return _NumericColumn(name=name, knots_K=knots.numpy(), scores_K=scores.numpy(), indicator=indicator, **floats)


def _as_table(inputs: Inputs) -> Table:
    if not isinstance(inputs, Table):
        raise InvalidData(f"the tabular featuriser takes a table, got {type(inputs).__name__}")
    return inputs
