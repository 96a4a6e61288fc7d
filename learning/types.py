"""The nouns of the learning core.

Letters in shape suffixes, everywhere in `learning`:
    N examples    S support (training) rows    Q query rows      F feature width    P projected width
    C classes     D domains                    E episodes        K folds            T outputs of a head (C, or 1)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learning.errors import InvalidData

Modality = Literal["image", "text", "tabular"]
Task = Literal["classification", "regression"]

#: Called with (fraction of the whole in [0, 1], phase in a word or two). May raise `Cancelled`.
Progress = Callable[[float, str], None]


class Inputs(Protocol):
    """Rows a featuriser can turn into features."""

    def __len__(self) -> int: ...

    def select(self, index_N: Tensor) -> Self:
        """The rows at `index_N` (int64), in that order."""
        ...

    def keys(self) -> list[bytes]:
        """One byte string per row, equal for equal content: a canonical order and duplicate detection."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Rows already encoded: `matrix_NF` float32 by the rootstock, `grafted` by grafts of it, under their digests."""

    matrix_NF: Tensor
    grafted: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def only(cls, matrix_NF: Tensor, graft: str) -> "Features":
        """Rows that were encoded under one graft ("": the rootstock) and are read under no other."""
        return cls(matrix_NF=matrix_NF, grafted={graft: matrix_NF} if graft else {})

    def __len__(self) -> int:
        return self.matrix_NF.shape[0]

    def under(self, graft: str) -> Tensor:
        """(N, F) the rows under the graft of that digest; of the rootstock for "".

        Raises:
            InvalidData: these rows were not encoded under it.
        """
        if not graft:
            return self.matrix_NF
        if graft not in self.grafted:
            raise InvalidData(f"the inputs were not encoded under graft {graft}", hint="encode them under it as well")
        return self.grafted[graft]

    def select(self, index_N: Tensor) -> "Features":
        grafted = {graft: matrix_NF[index_N] for graft, matrix_NF in self.grafted.items()}
        return Features(matrix_NF=self.matrix_NF[index_N], grafted=grafted)

    def keys(self) -> list[bytes]:
        return [row.tobytes() for row in self.matrix_NF.numpy()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Raw columns: `numeric` float64 with NaN where missing, `categorical` objects (str, or None where missing)."""

    numeric: Mapping[str, NDArray[np.float64]]
    categorical: Mapping[str, NDArray[np.object_]]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (*self.numeric.values(), *self.categorical.values())}
        if len(lengths) != 1:
            raise InvalidData(f"columns of a table must have one common length, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(next(iter((*self.numeric.values(), *self.categorical.values()))))

    def select(self, index_N: Tensor) -> "Table":
        index = index_N.numpy()
        return Table(
            numeric={name: column[index] for name, column in self.numeric.items()},
            categorical={name: column[index] for name, column in self.categorical.items()},
        )

    def keys(self) -> list[bytes]:
        numeric = [self.numeric[name] for name in sorted(self.numeric)]
        categorical = [self.categorical[name] for name in sorted(self.categorical)]
        return [
            repr(([float(column[row]) for column in numeric], [column[row] for column in categorical])).encode()
            for row in range(len(self))
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Inputs with labels.

    `labels_N` is int64, an index into `classes`, for classification; float32 with `classes == ()` for regression.
    """

    inputs: Inputs
    labels_N: Tensor
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.inputs) != self.labels_N.shape[0]:
            raise InvalidData(f"{len(self.inputs)} inputs but {self.labels_N.shape[0]} labels")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def task(self) -> Task:
        return "classification" if self.classes else "regression"

    @property
    def shots(self) -> int:
        """Rows per class, rounded down but at least 1; all rows of a regression."""
        return max(1, len(self) // max(len(self.classes), 1))

    def select(self, index_N: Tensor) -> "LabelledSet":
        return LabelledSet(inputs=self.inputs.select(index_N), labels_N=self.labels_N[index_N], classes=self.classes)


def labelled_set(inputs: Inputs, labels: Sequence[str] | Sequence[float], task: Task) -> LabelledSet:
    """A `LabelledSet` from plain labels: names (classes sorted) for classification, numbers for regression."""
    if task == "regression":
        return LabelledSet(inputs=inputs, labels_N=torch.tensor([float(y) for y in labels], dtype=torch.float32))
    names = tuple(sorted({str(y) for y in labels}))
    index = {name: i for i, name in enumerate(names)}
    return LabelledSet(
        inputs=inputs, labels_N=torch.tensor([index[str(y)] for y in labels], dtype=torch.int64), classes=names
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """A named labelled set: a source, or the target. `name` is the caller's identifier (a dataset id).

    `rows_N` are the rows' places in that dataset where `data` is a part of it; None: it is all of it.
    """

    name: str
    data: LabelledSet
    rows_N: Tensor | None = None


class FittedFeaturiser(Protocol):
    """Turns inputs into features; never changes after it was fitted."""

    @property
    def width(self) -> int: ...

    @property
    def graft(self) -> str:
        """Digest of the graft whose features it reads; "": the rootstock's, or a table's."""
        ...

    def transform(self, inputs: Inputs) -> Tensor:
        """(N, F) float32: what `completed` makes of what was `read`."""
        ...

    @property
    def read_width(self) -> int:
        """R: how wide the rows are that it reads."""
        ...

    def read(self, inputs: Inputs) -> Tensor:
        """(N, R) float32: the rows as the encoder left them, or the features of a table's columns."""
        ...

    def completed(self, rows_NR: Tensor) -> Tensor:
        """(N, F) of what was read: arithmetic that a graph can hold."""
        ...


class Featuriser(Protocol):
    """How a modality's inputs become features. Fitted inside a fold, so it never sees held-out rows."""

    def fit(self, parts: Sequence[Inputs]) -> FittedFeaturiser: ...
