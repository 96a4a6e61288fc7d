"""Sufficient statistics of a ridge head: examples and classes are added without the old data, and equal a refit.

A ridge head is (F'WF + P)^-1 F'WY, so the weighted Gram matrix F'WF and the moments F'WY hold all that rows ever say
about it; a new example adds its outer product, a new class a column that is zero on the old rows. While the rows are
fewer than their width they are themselves the smaller exact statistic, and are kept as they are; beyond that the upper
triangle of the Gram matrix is. A logistic head has no finite statistic: it is refitted on its rows.

Kept in float32, which moves a head by less than 1e-5. Fixed as they were when the statistics were taken: the
featuriser, the metric, the regularisation and the weights of source rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.errors import InvalidData
from learning.heads import LinearHead, RidgeFit, fit_ridge, head_from_moments, leave_one_out_heads, with_bias
from learning.intervals import HeldOutHeads
from learning.sources import LabelScale

#: Up to so many rows they are kept whatever their width: leaving one out needs them.
MAX_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeProblem:
    """What a ridge head was fitted on: N weighted rows, of which the first `n_support` are the target's.

    `targets_NT` are one-hot, or labels in their own units; `output_scale` multiplies the head of a classification.
    """

    features_NF: Tensor
    targets_NT: Tensor
    weights_N: Tensor
    n_support: int
    regularisation: float
    output_scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeStatistics:
    """Rows (`gram_K` empty) or moments (`features_NF` without rows).

    `gram_K` is the upper triangle of the (F + 1, F + 1) Gram matrix with the bias as last feature, `moments_FT` the
    (F + 1, T) products with the targets. `labels_3`: number, sum and sum of squares of a regression's target labels,
    which scale it (zero for a classification).
    """

    features_NF: Tensor
    targets_NT: Tensor
    weights_N: Tensor
    gram_K: Tensor
    moments_FT: Tensor
    labels_3: Tensor
    regularisation: float
    output_scale: float

    @property
    def keeps_rows(self) -> bool:
        return not len(self.gram_K)

    @property
    def is_regression(self) -> bool:
        return bool(self.labels_3[0] > 0)

    @property
    def label_scale(self) -> LabelScale:
        """As `learning.sources.label_scale` of all target labels so far."""
        if not self.is_regression:
            return LabelScale()
        n_rows, total, squares = self.labels_3.tolist()
        variance = max(squares / n_rows - (total / n_rows) ** 2, 0.0)
        return LabelScale(mean=total / n_rows, deviation=variance**0.5 if variance > 1e-18 else 1.0)

    def head(self) -> LinearHead:
        """The ridge head of all rows, in label units."""
        scale = self.label_scale
        if self.keeps_rows:
            head = self._fit().head
        else:
            gram_FF = _full(self.gram_K)
            # The bias column of the Gram matrix is F'W1: what subtracting the mean label takes from the moments.
            moments_FT = (self.moments_FT.double() - scale.mean * gram_FF[:, -1:]) / scale.deviation
            head = head_from_moments(gram_FF, moments_FT, regularisation=self.regularisation)
        factor = self.output_scale * scale.deviation
        return LinearHead(weight_TF=head.weight_TF * factor, bias_T=head.bias_T * factor + scale.mean)

    def held_out_heads(self) -> HeldOutHeads | None:
        """Of a regression on target rows alone, while they are kept; else None."""
        n_rows = len(self.features_NF)
        if not self.keeps_rows or int(self.labels_3[0]) != n_rows or n_rows > MAX_ROWS:
            return None
        scale, fit = self.label_scale, self._fit()
        targets_NT = (self.targets_NT.double() - scale.mean) / scale.deviation
        return HeldOutHeads.from_ridge(
            leave_one_out_heads(
                self.features_NF, targets_NT, fit, regularisation=self.regularisation, weights_S=self.weights_N
            )[:, 0],
            (targets_NT - fit.held_out_ST)[:, 0],
            scale,
        )

    def _fit(self) -> RidgeFit:
        scale = self.label_scale
        return fit_ridge(
            self.features_NF,
            (self.targets_NT.double() - scale.mean) / scale.deviation,
            regularisation=self.regularisation,
            weights_S=self.weights_N,
        )

    def with_examples(self, features_SF: Tensor, targets_ST: Tensor) -> "RidgeStatistics":
        """With S more target rows of weight 1. Raises `InvalidData` where they have another width."""
        width = self.features_NF.shape[1]
        if features_SF.shape[1] != width or targets_ST.shape[1] != self.targets_NT.shape[1]:
            raise InvalidData(f"the learner reads {width} features, the new examples have {features_SF.shape[1]}")
        labels_3 = self.labels_3 + (_label_sums(targets_ST) if self.is_regression else 0)
        weights_S = torch.ones(len(features_SF), dtype=torch.float64)
        if self.keeps_rows:
            return _smaller(
                torch.cat([self.features_NF.double(), features_SF.double()]),
                torch.cat([self.targets_NT.double(), targets_ST.double()]),
                torch.cat([self.weights_N.double(), weights_S]),
                replace(self, labels_3=labels_3),
            )
        gram_FF, moments_FT = _moments(features_SF, targets_ST, weights_S)
        return replace(
            self,
            gram_K=(self.gram_K.double() + _triangle(gram_FF)).float(),
            moments_FT=(self.moments_FT.double() + moments_FT).float(),
            labels_3=labels_3,
        )

    def with_class(self, place: int) -> "RidgeStatistics":
        """With one more class, as yet without examples, as output `place`."""
        return replace(
            self, targets_NT=_with_zero(self.targets_NT, place), moments_FT=_with_zero(self.moments_FT, place)
        )

    def reordered(self, order: list[int]) -> "RidgeStatistics":
        """With the outputs in another order."""
        return replace(self, targets_NT=self.targets_NT[:, order], moments_FT=self.moments_FT[:, order])

    def tensors(self) -> dict[str, Tensor]:
        settings_2 = torch.tensor([self.regularisation, self.output_scale], dtype=torch.float64)
        names = ("features_NF", "targets_NT", "weights_N", "gram_K", "moments_FT", "labels_3")
        return {name: getattr(self, name) for name in names} | {"settings_2": settings_2}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "RidgeStatistics":
        fields = dict(tensors)
        regularisation, output_scale = fields.pop("settings_2").tolist()
        return cls(**fields, regularisation=regularisation, output_scale=output_scale)


def ridge_statistics(problem: RidgeProblem, *, regression: bool) -> RidgeStatistics:
    """The smaller exact statistic of `problem`."""
    nothing = torch.zeros(0, dtype=torch.float32)
    support_ST = problem.targets_NT[: problem.n_support]
    empty = RidgeStatistics(
        features_NF=nothing,
        targets_NT=nothing,
        weights_N=nothing,
        gram_K=nothing,
        moments_FT=nothing,
        labels_3=_label_sums(support_ST) if regression else torch.zeros(3, dtype=torch.float64),
        regularisation=problem.regularisation,
        output_scale=problem.output_scale,
    )
    return _smaller(problem.features_NF.double(), problem.targets_NT.double(), problem.weights_N.double(), empty)


def _smaller(features_NF: Tensor, targets_NT: Tensor, weights_N: Tensor, like: RidgeStatistics) -> RidgeStatistics:
    (n_rows, width), n_outputs = features_NF.shape, targets_NT.shape[1]
    if n_rows <= max(width, MAX_ROWS):
        return replace(
            like,
            features_NF=features_NF.float(),
            targets_NT=targets_NT.float(),
            weights_N=weights_N.float(),
            gram_K=torch.zeros(0),
            moments_FT=torch.zeros(0, n_outputs),
        )
    gram_FF, moments_FT = _moments(features_NF, targets_NT, weights_N)
    return replace(
        like,
        features_NF=torch.zeros(0, width),
        targets_NT=torch.zeros(0, n_outputs),
        weights_N=torch.zeros(0),
        gram_K=_triangle(gram_FF).float(),
        moments_FT=moments_FT.float(),
    )


def _moments(features_NF: Tensor, targets_NT: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """(F + 1, F + 1) and (F + 1, T), float64."""
    rows_NF = with_bias(features_NF.double())
    weighted_FN = (weights_N[:, None] * rows_NF).T
    return weighted_FN @ rows_NF, weighted_FN @ targets_NT.double()


def _label_sums(labels_S1: Tensor) -> Tensor:
    labels_S1 = labels_S1.double()
    return torch.stack([torch.tensor(float(len(labels_S1))).double(), labels_S1.sum(), labels_S1.square().sum()])


def _triangle(gram_FF: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*gram_FF.shape).unbind()
    return gram_FF[rows, columns]


def _full(gram_K: Tensor) -> Tensor:
    width = int(((8 * len(gram_K) + 1) ** 0.5 - 1) / 2)
    rows, columns = torch.triu_indices(width, width).unbind()
    gram_FF = torch.zeros(width, width, dtype=torch.float64)
    gram_FF[rows, columns] = gram_K.double()
    gram_FF[columns, rows] = gram_K.double()
    return gram_FF


def _with_zero(targets_NT: Tensor, place: int) -> Tensor:
    zero_N1 = torch.zeros(len(targets_NT), 1, dtype=targets_NT.dtype)
    return torch.cat([targets_NT[:, :place], zero_N1, targets_NT[:, place:]], dim=1)
