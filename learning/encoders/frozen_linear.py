"""Linear layers whose weights never change, laid out once as the processor's library multiplies them best."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: Rows that the layout is made for; others are as right, and nearly as fast.
_TYPICAL_ROWS = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenLinear:
    """x W^T + b, then the exact GELU where `gelu`. `weight` may be in the library's own layout."""

    weight: Tensor
    bias: Tensor
    gelu: bool
    is_packed: bool

    def __call__(self, rows_TF: Tensor) -> Tensor:
        """(T, F) float32 to (T, width) float32; half precision weights compute in theirs."""
        if self.is_packed:
            return _packed_linear(rows_TF, self.weight, self.bias, gelu=self.gelu)
        outputs = F.linear(rows_TF.to(self.weight.dtype), self.weight, self.bias).to(rows_TF.dtype)
        return F.gelu(outputs) if self.gelu else outputs


def frozen_linear(
    weight: Tensor, bias: Tensor, *, gelu: bool = False, dtype: torch.dtype = torch.float32
) -> FrozenLinear:
    """The layer in `dtype`; on a CPU in float32 packed for oneDNN, which also saves a pass for the GELU."""
    weight, bias = weight.detach().to(dtype).contiguous(), bias.detach().to(dtype)
    if dtype == torch.float32 and weight.device.type == "cpu" and _can_pack():
        packed: Tensor = _operators()._reorder_linear_weight(weight, _TYPICAL_ROWS)  # noqa: SLF001
        return FrozenLinear(weight=packed, bias=bias, gelu=gelu, is_packed=True)
    return FrozenLinear(weight=weight, bias=bias, gelu=gelu, is_packed=False)


def _operators() -> Any:
    return torch.ops.mkldnn


def _packed_linear(rows_TF: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool) -> Tensor:
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    outputs: Tensor = _operators()._linear_pointwise(rows_TF, weight, bias, name, [], algorithm)  # noqa: SLF001
    return outputs


def _can_pack() -> bool:
    """Whether this build has the operators, which torch's own compiler uses but does not promise to keep."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(_operators(), name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
