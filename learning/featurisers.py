"""Featurisers by name, so that an artifact can bring its own back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learning.encoders.tabular import FittedQuantileFeaturiser, QuantileFeaturiser
from learning.errors import InvalidArtifact, InvalidData
from learning.stacking import FittedStack
from learning.types import Features, Featuriser, FittedFeaturiser, Inputs, Modality

State = tuple[dict[str, Tensor], dict[str, Any]]


def _matrix(inputs: Inputs, graft: str) -> Tensor:
    if not isinstance(inputs, Features):
        raise InvalidData(f"expected encoded features, got {type(inputs).__name__}")
    return inputs.under(graft)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedCentring:
    """(f - mean) * scale, then the leading principal directions where some were kept.

    `mean_F` and `directions_KF` (orthonormal rows, K = 0: keep all) are float32. `graft` is the digest of the graft
    whose features are read, "" for the rootstock's own.
    """

    mean_F: Tensor
    directions_KF: Tensor
    scale: float
    graft: str = ""

    @property
    def width(self) -> int:
        return len(self.directions_KF) or self.mean_F.shape[0]

    def around(self, inputs: Inputs) -> "FittedCentring":
        """The same directions, centred and scaled by other rows."""
        rows_NF = _matrix(inputs, self.graft)
        moved = replace(self, mean_F=rows_NF.mean(0), scale=1.0)
        spread = moved.transform(inputs).square().sum(1).mean().sqrt().item()
        return replace(moved, scale=1.0 / spread if spread > 1e-6 else 1.0)

    def transform(self, inputs: Inputs) -> Tensor:
        return self.completed(self.read(inputs))

    @property
    def read_width(self) -> int:
        return self.mean_F.shape[0]

    def read(self, inputs: Inputs) -> Tensor:
        return _matrix(inputs, self.graft)

    def completed(self, rows_NF: Tensor) -> Tensor:
        centred_NF = (rows_NF - self.mean_F) * self.scale
        return centred_NF @ self.directions_KF.T if len(self.directions_KF) else centred_NF

    def state(self) -> State:
        tensors = {"mean_F": self.mean_F, "directions_KF": self.directions_KF}
        return tensors, {"scale": self.scale, "graft": self.graft}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> "FittedCentring":
        return cls(
            mean_F=tensors["mean_F"],
            directions_KF=tensors["directions_KF"],
            scale=float(header["scale"]),
            graft=str(header["graft"]),
        )


@dataclass(frozen=True, kw_only=True)
class Centring:
    """For encoded features: centred rows of unit mean squared norm, at most `max_width` wide.

    A rootstock's features share a large common component; without it one regularisation strength suits every encoder.
    Directions are dropped only where there are at least twice as many rows as kept directions to tell them apart.
    """

    max_width: int = 384
    graft: str = ""

    def fit(self, parts: Sequence[Inputs]) -> FittedCentring:
        """The mean, scale and directions of all rows of `parts`. A single row keeps scale 1."""
        rows_NF = torch.cat([_matrix(part, self.graft) for part in parts]).double()
        mean_F = rows_NF.mean(0)
        rows_NF = rows_NF - mean_F
        spread = rows_NF.square().sum(1).mean().sqrt().item()
        directions_KF = torch.zeros(0, rows_NF.shape[1], dtype=torch.float64)
        if rows_NF.shape[1] > self.max_width and len(rows_NF) >= 2 * self.max_width:
            _, vectors_FF = torch.linalg.eigh(rows_NF.T @ rows_NF)
            directions_KF = vectors_FF.T.flip(0)[: self.max_width]
        return FittedCentring(
            mean_F=mean_F.float(),
            directions_KF=directions_KF.float().contiguous(),
            scale=1.0 / spread if spread > 1e-6 else 1.0,
            graft=self.graft,
        )


_FITTED: dict[str, type[FittedCentring] | type[FittedQuantileFeaturiser] | type[FittedStack]] = {
    "centring": FittedCentring,
    "quantile": FittedQuantileFeaturiser,
    "stack": FittedStack,
}


def featuriser_for(modality: Modality, graft: str = "") -> Featuriser:
    """The featuriser that stands between the inputs of `modality`, encoded under `graft`, and the heads."""
    return QuantileFeaturiser() if modality == "tabular" else Centring(graft=graft)


def dump_featuriser(fitted: FittedFeaturiser) -> State:
    """Tensors and a JSON-able header that `load_featuriser` turns back."""
    for name, kind in _FITTED.items():
        if isinstance(fitted, kind):
            tensors, header = fitted.state()
            return tensors, {"kind": name, "state": header}
    raise InvalidArtifact(f"a {type(fitted).__name__} cannot be stored")


def load_featuriser(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> FittedFeaturiser:
    kind = _FITTED.get(header.get("kind", ""))
    if kind is None:
        raise InvalidArtifact(f"unknown featuriser {header.get('kind')!r}")
    return kind.from_state(tensors, header["state"])
