"""Rows of one batch under different grafts: one run of the shared weights serves many models.

Letters besides those of `learning.types`: B rows of a batch, G distinct grafts among them, P numbers of a graft.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.encoders.registry import Encoder
from learning.grafts import Graft, check_fits


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatGraft:
    """A graft as one float16 vector, as it is kept for serving: `offsets_P` in the order of the graft points."""

    digest: str
    offsets_P: Tensor


def flattened(graft: Graft, points: Mapping[str, Tensor], encoder: str) -> FlatGraft:
    """Raises `IncompatibleDomain` where the graft was not made for the encoder that has these points."""
    check_fits(graft, points, encoder)
    offsets_P = torch.cat([graft.offsets[name].flatten() for name in points]).half()
    return FlatGraft(digest=graft.digest, offsets_P=offsets_P)


def unflattened(graft: FlatGraft, points: Mapping[str, Tensor]) -> Graft:
    """The graft that `flattened` was given, which has the same digest."""
    parts = graft.offsets_P.float().split([value.numel() for value in points.values()])
    named = zip(points.items(), parts, strict=True)
    return Graft(offsets={name: part.view(value.shape) for (name, value), part in named})


class MixedEncoder(Encoder, Protocol):
    """An encoder whose batches may mix grafts."""

    def graft_points(self) -> dict[str, Tensor]: ...

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        """Inputs in the form that takes no more work but the encoder's own: tokens, a square of pixels.

        Raises:
            InvalidData: an input is not of this modality or cannot be decoded.
        """
        ...

    def size_of(self, prepared: Any) -> int:
        """How much work a prepared input is, in a unit of the encoder."""
        ...

    def encode_mixed(self, ready: Sequence[Any], grafts: Sequence[FlatGraft | None]) -> Tensor:
        """(B, width) float32 unit rows on the CPU, each under its own graft (None: the rootstock).

        Equal to encoding each alone to 1e-5.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class GraftedRows:
    """The grafts of a batch: `values_GP` are whole scales and shifts, `graft_B` says which of them a row wears."""

    values_GP: Tensor
    graft_B: Tensor

    @property
    def is_uniform(self) -> bool:
        """Whether all rows wear the same one."""
        return len(self.values_GP) == 1


def grafted_rows(grafts: Sequence[FlatGraft | None], root_P: Tensor) -> GraftedRows | None:
    """None where all rows are encoded by the rootstock, whose scales and shifts are `root_P`."""
    if all(graft is None for graft in grafts):
        return None
    place: dict[str, int] = {}
    distinct: list[Tensor] = []
    rows = []
    for graft in grafts:
        digest = "" if graft is None else graft.digest
        if digest not in place:
            place[digest] = len(distinct)
            distinct.append(torch.zeros(root_P.shape, dtype=torch.float16) if graft is None else graft.offsets_P)
        rows.append(place[digest])
    offsets_GP = torch.stack(distinct).to(root_P.device)
    return GraftedRows(values_GP=root_P + offsets_GP, graft_B=torch.tensor(rows, device=root_P.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class GraftLayout:
    """Where each scale and shift stands in the vector of a graft."""

    points: Mapping[str, Tensor]

    @cached_property
    def root(self) -> Tensor:
        """(P,) the rootstock's own scales and shifts."""
        return torch.cat([value.detach().float().flatten() for value in self.points.values()])

    @cached_property
    def _sizes(self) -> list[int]:
        return [value.numel() for value in self.points.values()]

    def split(self, values_GP: Tensor) -> dict[str, Tensor]:
        """(G, width) of each point; views."""
        return dict(zip(self.points, values_GP.split(self._sizes, dim=1), strict=True))

    def of_rows(self, rows: GraftedRows) -> dict[str, Tensor]:
        """(B, width) of each point, as the layers of `per_row` take them."""
        return self.split(rows.values_GP[rows.graft_B])


class _PerRowLayerNorm(nn.Module):
    """A LayerNorm whose `weight` and `bias` have a row, (B, F), for each row of its input, (B, ..., F)."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.shape, self.eps = layer.normalized_shape, layer.eps

    def forward(self, states: Tensor) -> Tensor:
        normal = F.layer_norm(states, self.shape, None, None, self.eps)
        shape = (len(states), *[1] * (states.dim() - 2), -1)
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))


class _PerRowBatchNorm(nn.Module):
    """A BatchNorm2d of fixed statistics whose `weight` and `bias` are (B, C); its input is (B, C, H, W)."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        assert layer.running_mean is not None  # noqa: S101 - a pretrained backbone has its statistics
        assert layer.running_var is not None  # noqa: S101
        self.mean_C, self.deviation_C = layer.running_mean, (layer.running_var + layer.eps).sqrt()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        scale_BC = self.weight / self.deviation_C
        shift_BC = self.bias - self.mean_C * scale_BC
        return torch.addcmul(shift_BC[:, :, None, None], maps_BCHW, scale_BC[:, :, None, None])


class _PerRowGroupNorm(nn.Module):
    """A GroupNorm whose `weight` and `bias` are (B, C); its input is (B, C, H, W)."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.groups, self.eps = layer.num_groups, layer.eps

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        normal_BCHW = F.group_norm(maps_BCHW, self.groups, eps=self.eps)
        return torch.addcmul(self.bias[:, :, None, None], normal_BCHW, self.weight[:, :, None, None])


def per_row(module: nn.Module) -> nn.Module:
    """A copy of `module`, all weights shared, whose normalisation layers take scales and shifts of (B, width).

    They are passed by `torch.func.functional_call`; without them it computes nothing sensible.
    """
    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    return _replaced(deepcopy(module, shared))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.LayerNorm):
        return _PerRowLayerNorm(module)
    if isinstance(module, nn.BatchNorm2d):
        return _PerRowBatchNorm(module)
    if isinstance(module, nn.GroupNorm):
        return _PerRowGroupNorm(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child))
    return module


def as_mixed(encoder: Encoder) -> MixedEncoder:
    """`encoder`, which is known to be one."""
    return cast("MixedEncoder", encoder)
