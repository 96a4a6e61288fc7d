"""Intervals of a regression from learners that did not see a row: jackknife+ and CV+ (Barber et al. 2021).

The half width of plain cross-validation is one number for every query. Here each support row brings the answer at the
query of a learner fitted without it, plus and minus its own held-out error; where the learners disagree, far from the
support, intervals widen by themselves. A learner is linear, so a query costs one product with the held-out heads.

Deviation: the quantiles interpolate between order statistics. Rounding the rank up promises at least the coverage, and
at 15 rows gives 94 % for 90; a rank beyond the rows is infinite here too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learning.heads import LinearHead, with_bias
from learning.sources import LabelScale


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutHeads:
    """K heads that each miss some support rows: `heads_KF` with the bias as last column, in label units.

    `head_S` is the head that misses row s, `errors_S` the absolute error of its answer there.
    """

    heads_KF: Tensor
    head_S: Tensor
    errors_S: Tensor

    def intervals(self, features_QF: Tensor, coverage: float) -> Tensor:
        """(Q, 2) lower and upper end, from the features (or embeddings) that the heads take."""
        answers_QS = (with_bias(features_QF.double()) @ self.heads_KF.T)[:, self.head_S]
        low_Q = -interpolated_quantile(self.errors_S - answers_QS, coverage)
        high_Q = interpolated_quantile(answers_QS + self.errors_S, coverage)
        # Interpolated ends of few, crossing rows may swap; an interval is never inside out.
        return torch.stack([torch.minimum(low_Q, high_Q), torch.maximum(low_Q, high_Q)], dim=1)

    @classmethod
    def from_ridge(cls, heads_SF: Tensor, errors_S: Tensor, scale: LabelScale) -> "HeldOutHeads":
        """From one head per row (`learning.heads.leave_one_out_heads`), its labels standardised by `scale`."""
        heads_SF = heads_SF * scale.deviation
        heads_SF[:, -1] += scale.mean
        return cls(heads_KF=heads_SF, head_S=torch.arange(len(heads_SF)), errors_S=errors_S.abs() * scale.deviation)

    def stored(self) -> "HeldOutHeads":
        """In the precision that an artifact holds."""
        return HeldOutHeads(
            heads_KF=self.heads_KF.float().double(), head_S=self.head_S, errors_S=self.errors_S.float().double()
        )

    def tensors(self) -> dict[str, Tensor]:
        return {"heads_KF": self.heads_KF.float(), "head_S": self.head_S.int(), "errors_S": self.errors_S.float()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "HeldOutHeads":
        return cls(
            heads_KF=tensors["heads_KF"].double(),
            head_S=tensors["head_S"].long(),
            errors_S=tensors["errors_S"].double(),
        )


def cross_validated(heads: Sequence[LinearHead], fold_S: Tensor, errors_S: Tensor) -> HeldOutHeads:
    """From one head per fold, in the order of the distinct values of `fold_S` (S,); `errors_S` of any sign."""
    _, head_S = fold_S.unique(return_inverse=True)
    heads_KF = torch.stack([torch.cat([head.weight_TF[0], head.bias_T]) for head in heads])
    return HeldOutHeads(heads_KF=heads_KF, head_S=head_S, errors_S=errors_S.abs())


def interpolated_quantile(scores_XN: Tensor, coverage: float) -> Tensor:
    """(...,) the (N + 1) coverage-th smallest along the last axis, between two of them where that is not whole.

    A fresh exchangeable score lies below it with probability `coverage` up to how the scores bunch between the two.
    Infinite where N is too small to promise that coverage.
    """
    n_rows = scores_XN.shape[-1]
    rank = (n_rows + 1) * coverage
    if rank > n_rows + 1e-9 or n_rows == 0:
        return torch.full(scores_XN.shape[:-1], math.inf, dtype=scores_XN.dtype)
    below = min(max(math.floor(rank + 1e-9), 1), n_rows)
    above, share = min(below + 1, n_rows), max(rank - below, 0.0)
    sorted_XN = scores_XN.sort(dim=-1).values
    return (1 - share) * sorted_XN[..., below - 1] + share * sorted_XN[..., above - 1]
