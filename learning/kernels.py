"""Kernel ridge regression on few rows, averaged over bandwidths and strengths by its exact leave-one-out errors.

Letters in shape suffixes besides those of `learning.types`: G bandwidths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from learning.distances import distances

#: Bandwidths in units of the median distance between two rows.
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
#: Rows, and numbers in them, that a kernel keeps: beyond it linear answers and trees have caught up with it.
MAX_ROWS, MAX_NUMBERS = 256, 50_000


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelRidge:
    """sum_g k(|x - x_s|_1 / length_g) dual_gs + mean, with the Laplace kernel k(d) = exp(-d), over the rows x_s.

    The kernel of the L1 distance adds up differences column by column, which suits columns of unlike meaning, and does
    not smooth over steps as the Gaussian kernel does.
    """

    rows_SF: Tensor
    length_G: Tensor
    dual_GST: Tensor
    mean_T: Tensor

    def answers(self, features_QF: Tensor) -> Tensor:
        """(Q, T) float32."""
        distance_QS = distances(features_QF, self.rows_SF, order=1)
        kernel_GQS = (-distance_QS / self.length_G[:, None, None]).exp()
        return (kernel_GQS @ self.dual_GST).sum(0) + self.mean_T

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows_SF, "length": self.length_G, "dual": self.dual_GST, "mean": self.mean_T}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Raises `ValueError` where the parts do not fit together."""
        rows_SF, length_G, dual_GST, mean_T = (tensors[name] for name in ("rows", "length", "dual", "mean"))
        if dual_GST.shape != (len(length_G), len(rows_SF), len(mean_T)):
            raise ValueError(f"the weights of a kernel are {tuple(dual_GST.shape)}")
        return cls(rows_SF=rows_SF, length_G=length_G, dual_GST=dual_GST, mean_T=mean_T)


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelFit:
    """`held_out_NT`: what the kernel fitted without a row answers for it, given the bandwidths' weights.

    `rows_N` are the places of those rows: a random part where there are too many to keep.
    """

    kernel: KernelRidge
    held_out_NT: Tensor
    rows_N: Tensor


def fit_kernel(
    features_SF: Tensor,
    targets_ST: Tensor,
    generator: torch.Generator,
    *,
    bandwidths: Sequence[float] = BANDWIDTHS,
    strengths: Sequence[float] = STRENGTHS,
    weights_S: Tensor | None = None,
) -> KernelFit:
    """Ridge toward the targets' mean in the dual for every bandwidth and strength, in float64.

    Each is weighted by the likelihood of its leave-one-out errors under their own variance, which is error^(-S/2):
    of ten rows all are kept, of a hundred the best few. `weights_S` says how likely each row is to be among those kept.
    """
    n_kept = min(MAX_ROWS, max(MAX_NUMBERS // features_SF.shape[1], 2))
    rows_N = torch.arange(len(features_SF))
    if weights_S is not None:
        n_kept = min(n_kept, int((weights_S > 0).sum()))
        rows_N = torch.multinomial(weights_S, n_kept, generator=generator)
    elif len(rows_N) > n_kept:
        rows_N = torch.randperm(len(rows_N), generator=generator)[:n_kept]
    targets_ST = targets_ST[rows_N].double()
    # The rows as they are stored, so that a saved kernel answers as the fitted one.
    rows_SF = features_SF[rows_N].half()
    distance_SS = torch.cdist(rows_SF.double(), rows_SF.double(), p=1)
    apart = distance_SS[distance_SS > 0]
    length_G = (float(apart.median()) if len(apart) else 1.0) * torch.tensor(bandwidths, dtype=torch.float64)
    mean_T = targets_ST.mean(0)
    centred_ST = targets_ST - mean_T
    values_GS, vectors_GSS = torch.linalg.eigh((-distance_SS / length_G[:, None, None]).exp())
    strength_R = torch.tensor(strengths, dtype=torch.float64)
    shrunk_GRS = 1 / (values_GS.clamp_min(0)[:, None] + strength_R[:, None])
    inverse_GRSS = (vectors_GSS[:, None] * shrunk_GRS[:, :, None]) @ vectors_GSS.mT[:, None]
    dual_GRST = inverse_GRSS @ centred_ST
    residual_GRST = dual_GRST / inverse_GRSS.diagonal(dim1=-2, dim2=-1)[..., None]
    error_GR = residual_GRST.square().mean((-1, -2)).clamp_min(1e-12)
    weight_GR = (-0.5 * len(rows_SF) * error_GR.log()).flatten().softmax(0).view(error_GR.shape)
    kernel = KernelRidge(
        rows_SF=rows_SF,
        length_G=length_G.float(),
        # A stored tensor is contiguous, and products of another layout differ in the last bit.
        dual_GST=torch.einsum("gr,grst->gst", weight_GR, dual_GRST)
        .float()
        .clone(memory_format=torch.contiguous_format),
        mean_T=mean_T.float(),
    )
    residual_NT = torch.einsum("gr,grst->st", weight_GR, residual_GRST)
    return KernelFit(kernel=kernel, held_out_NT=targets_ST - residual_NT, rows_N=rows_N)
