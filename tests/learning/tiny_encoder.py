"""An encoder of two layers with one normalisation between: everything a graft needs, in microseconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from learning.grafts import Graft, check_fits, graft_points, with_graft
from learning.types import Modality

WIDTH = 12


def _module() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, WIDTH))
    return layers.requires_grad_(False).eval()


@dataclass(frozen=True, kw_only=True)
class TinyEncoder:
    """Takes rows of six numbers; implements `learning.grafts.Graftable`."""

    module: nn.Module = field(default_factory=_module)
    revision: str = "tiny"
    name: str = "tiny"
    modality: Modality = "text"
    width: int = WIDTH
    device: str = "cpu"

    def encode(
        self,
        inputs: Sequence[Sequence[float]],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        if progress is not None:
            progress(len(inputs))
        with torch.no_grad():
            return self.differentiate(inputs, {})

    def graft_points(self) -> dict[str, Tensor]:
        return graft_points(self.module)

    def prepare(self, inputs: Sequence[Sequence[float]], *, limit: int | None = None) -> list[Sequence[float]]:
        return list(inputs)

    def turned(self, prepared: Sequence[float], quarters: int) -> Sequence[float]:
        return [*prepared[quarters:], *prepared[:quarters]]

    def size_of(self, prepared: Sequence[float]) -> int:
        return len(prepared)

    def differentiate(
        self,
        prepared: Sequence[Sequence[float]],
        values: Mapping[str, Tensor],
        *,
        jitter: torch.Generator | None = None,
    ) -> Tensor:
        rows_B6 = torch.tensor([list(row) for row in prepared])
        if jitter is not None:
            rows_B6 = rows_B6 + 0.1 * torch.randn(rows_B6.shape, generator=jitter)
        pooled_BF: Tensor = functional_call(self.module, dict(values), (rows_B6,))
        return F.normalize(pooled_BF, dim=1)

    def grafted(self, graft: Graft) -> "TinyEncoder":
        check_fits(graft, self.graft_points(), self.name)
        return replace(self, module=with_graft(self.module, graft), revision=f"{self.revision}-{graft.digest}")
