"""Grafts: offsets of an encoder's normalisation scales and shifts. The encoder's other weights are shared by all.

Normalisation layers hold few of an encoder's numbers and steer all of them (FiLM: Perez et al. 2018; CNAPs: Requeima et
al. 2019), so a domain's whole change of the encoder fits in kilobytes. A graft is kept as the difference from the
rootstock: the zero graft is the rootstock itself, and grafts can be mixed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from learning.encoders.registry import Encoder
from learning.errors import IncompatibleDomain

#: Layers whose scale and shift a graft moves.
_NORMALISATIONS = (nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graft:
    """`offsets`: for each scale or shift by its name in the encoder, the difference from the rootstock, (width,)."""

    offsets: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits: features of one encoder under equal grafts are interchangeable."""
        digest = hashlib.sha256()
        for name in sorted(self.offsets):
            digest.update(name.encode() + self.offsets[name].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(offset).all()) for offset in self.offsets.values())

    @property
    def n_numbers(self) -> int:
        return sum(offset.numel() for offset in self.offsets.values())

    def stored(self) -> "Graft":
        """As an artifact keeps it (half precision), so that features do not depend on saving and loading."""
        return Graft(offsets={name: offset.detach().cpu().half().float() for name, offset in self.offsets.items()})


class Graftable(Encoder, Protocol):
    """An encoder with normalisation layers that can be moved, and through which gradients flow."""

    @property
    def device(self) -> str: ...

    def graft_points(self) -> dict[str, Tensor]:
        """The rootstock's own scales and shifts by name."""
        ...

    def prepare(self, inputs: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        """Inputs in the form `differentiate` takes, made once: tokens of a text, an image ready to be decoded.

        `limit` is the most tokens that a text keeps; images ignore it.
        """
        ...

    def turned(self, prepared: Any, quarters: int) -> Any:
        """An image turned by so many quarter turns; a text as it is."""
        ...

    def size_of(self, prepared: Any) -> int:
        """How much work a prepared input is; batches of like sizes waste least."""
        ...

    def differentiate(
        self, prepared: Sequence[Any], values: Mapping[str, Tensor], *, jitter: torch.Generator | None = None
    ) -> Tensor:
        """(B, width) unit rows with the scales and shifts `values`, through which gradients flow.

        `jitter` draws a small random distortion of each image; texts stay as they are.
        """
        ...

    def grafted(self, graft: Graft) -> "Graftable":
        """This encoder under `graft`, sharing every other weight; its revision names the graft.

        Raises:
            IncompatibleDomain: the graft belongs to another encoder.
        """
        ...


def is_graftable(encoder: Encoder) -> bool:
    """Whether `encoder` is a `Graftable` with normalisation layers."""
    points = getattr(encoder, "graft_points", None)
    return points is not None and bool(points())


def graft_points(module: nn.Module) -> dict[str, Tensor]:
    """The scales and shifts of every normalisation layer of `module` by parameter name, in the module's order."""
    return {
        f"{layer}.{part}": value
        for layer, found in module.named_modules()
        if isinstance(found, _NORMALISATIONS)
        for part, value in found.named_parameters(recurse=False)
    }


def zero_graft(points: Mapping[str, Tensor]) -> Graft:
    """The rootstock as a graft."""
    return Graft(offsets={name: torch.zeros_like(value, device="cpu") for name, value in points.items()})


def mixed(grafts: Sequence[Graft], weights: Sequence[float]) -> Graft:
    """The weighted sum of grafts."""
    names = grafts[0].offsets
    return Graft(
        offsets={
            name: torch.stack([w * graft.offsets[name] for graft, w in zip(grafts, weights, strict=True)]).sum(0)
            for name in names
        }
    )


def check_fits(graft: Graft, points: Mapping[str, Tensor], encoder: str) -> None:
    """Raises `IncompatibleDomain` where the graft was not made for this encoder."""
    shapes = {name: offset.shape for name, offset in graft.offsets.items()}
    if shapes != {name: value.shape for name, value in points.items()}:
        raise IncompatibleDomain(f"the graft does not fit encoder {encoder}", hint="meta-train again on this encoder")


def with_graft(module: nn.Module, graft: Graft) -> nn.Module:
    """A copy of `module` under `graft` that shares every other weight with it."""
    moved = {id(value) for value in graft_points(module).values()}
    shared = {id(p): p for p in (*module.parameters(), *module.buffers()) if id(p) not in moved}
    copy = deepcopy(module, shared)
    with torch.no_grad():
        for name, value in graft_points(copy).items():
            value.add_(graft.offsets[name].to(value))
    return copy
