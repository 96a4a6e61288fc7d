"""Tables to features: quantile-normalised numbers, one-hot categories, optionally random Fourier features.

Letters in shape suffixes besides those of `learning.types`: R random Fourier features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from learning.encoders.columns import alignment_notes, raw_numbers, table_from_columns
from learning.encoders.fitted_columns import CategoricalColumn, NumericColumn, fit_column, restore_column
from learning.errors import InvalidArtifact, InvalidData
from learning.standalone.table_reading import NumericColumns, side_by_side
from learning.types import Inputs, Table

__all__ = ["FittedQuantileFeaturiser", "QuantileFeaturiser", "table_from_columns"]


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
        fitted = {name: fit_column(name, tables, standard=self.standard) for name in names}
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

    columns: tuple[NumericColumn | CategoricalColumn, ...]
    alignment: list[str]
    fourier_weight_FR: Tensor
    fourier_phase_R: Tensor
    graft: ClassVar[str] = ""

    @cached_property
    def _numeric(self) -> NumericColumns:
        return NumericColumns([column.curve() for column in self.columns if isinstance(column, NumericColumn)])

    @property
    def width(self) -> int:
        return self.read_width + self.fourier_phase_R.shape[0]

    @property
    def read_width(self) -> int:
        return sum(column.width for column in self.columns)

    def transform(self, inputs: Inputs) -> Tensor:
        """(N, width) float32. Columns the table lacks count as missing, columns unknown at fit time are ignored.

        Raises:
            InvalidData: `inputs` is no `Table`, shares no column, or has text in a column fitted as numeric.
        """
        return self.completed(self.read(inputs))

    def read(self, inputs: Inputs) -> Tensor:
        table = _as_table(inputs)
        if not any(column.name in table.numeric or column.name in table.categorical for column in self.columns):
            known = ", ".join(column.name for column in self.columns[:10])
            raise InvalidData("the table has none of the columns this model was fitted on", hint=f"columns: {known}")
        numeric = [column for column in self.columns if isinstance(column, NumericColumn)]
        values_NC = np.empty((len(table), len(numeric)))
        for place, column in enumerate(numeric):
            values_NC[:, place] = raw_numbers(column.name, table)
        numbers_of = iter(self._numeric.features(values_NC))
        blocks = [
            next(numbers_of) if isinstance(column, NumericColumn) else column.transform(table)
            for column in self.columns
        ]
        return torch.from_numpy(side_by_side(blocks))

    def completed(self, rows_NF: Tensor) -> Tensor:
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
        numeric = [column for column in self.columns if isinstance(column, NumericColumn)]
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
            columns = tuple(map(restore_column, header["columns"], knots, scores))
            alignment = [str(note) for note in header["alignment"]]
            weight_FR, phase_R = tensors["fourier_weight"].float(), tensors["fourier_phase"].float()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InvalidArtifact(f"the state of the tabular featuriser is damaged: {error!r}") from error
        if weight_FR.shape != (sum(column.width for column in columns), *phase_R.shape):
            raise InvalidArtifact(f"the tabular featuriser is damaged: Fourier weights are {tuple(weight_FR.shape)}")
        return cls(columns=columns, alignment=alignment, fourier_weight_FR=weight_FR, fourier_phase_R=phase_R)


def _draw_fourier(width: int, n_fourier: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight_FR = torch.randn(width, n_fourier, generator=generator)
    return weight_FR, 2 * math.pi * torch.rand(n_fourier, generator=generator)


def _as_table(inputs: Inputs) -> Table:
    if not isinstance(inputs, Table):
        raise InvalidData(f"the tabular featuriser takes a table, got {type(inputs).__name__}")
    return inputs
