"""What a meta-learner learns: a metric, how to weight sources, and how to generate an initialisation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.config import Similarity
from learning.task import DESCRIPTION_WIDTH


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferParameters:
    """Learned tensors. A generator is linear in the task description (`learning.task.describe`), on a log scale.

    projection_PF    the metric: features to a low dimension (P = 0: no metric learned; E of them for E episodes)
    log_metric_gain  how far metric coordinates count beside the features themselves
    affinity_3       weights of a source row: similarity, label agreement, its domain's fit
    metric_3D        generates log(source weight per row), log(regularisation), log(output scale) of the metric learner
    init_4D          generates log(scale of source heads), log(scale of prototypes), log(regularisation), log(step size)
    domain_affinity  how sharply the generated head prefers the domains that fit the support best
    """

    projection_PF: Tensor
    log_metric_gain: Tensor
    affinity_3: Tensor
    metric_3D: Tensor
    init_4D: Tensor
    domain_affinity: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "TransferParameters":
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})

    def to(self, dtype: torch.dtype) -> "TransferParameters":
        return TransferParameters(**{name: tensor.to(dtype) for name, tensor in self.tensors().items()})


def _generator(*biases: float) -> Tensor:
    """Rows that ignore the task and answer `biases`: where meta-learning starts, and what is used without it."""
    rows = torch.zeros(len(biases), DESCRIPTION_WIDTH, dtype=torch.float64)
    rows[:, 0] = torch.tensor(biases, dtype=torch.float64)
    return rows


def default_parameters(width: int, projection_PF: Tensor | None = None) -> TransferParameters:
    """Sensible values without any meta-learning; `width` is F."""
    empty_PF = torch.zeros(0, width, dtype=torch.float64)
    return TransferParameters(
        projection_PF=empty_PF if projection_PF is None else projection_PF.double(),
        log_metric_gain=torch.tensor(0.0, dtype=torch.float64),
        affinity_3=torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64),
        metric_3D=_generator(-1.5, 0.0, 1.6),
        init_4D=_generator(1.6, 0.7, -2.5, 0.0),
        domain_affinity=torch.tensor(3.0, dtype=torch.float64),
    )


def coordinates(parameters: TransferParameters, features: Tensor, similarity: Similarity) -> Tensor:
    """(..., P) metric coordinates: on the unit sphere for cosine, as projected for Euclidean distance.

    Without a learned projection the features themselves (P = F).
    """
    projected = features @ parameters.projection_PF.mT if parameters.projection_PF.shape[-2] else features
    return F.normalize(projected, dim=-1) if similarity == "cosine" else projected


def embed(parameters: TransferParameters, features: Tensor, similarity: Similarity) -> Tensor:
    """(..., F + P): features beside their metric coordinates, so that a linear head can use either."""
    if not parameters.projection_PF.shape[-2]:
        return features
    gain = parameters.log_metric_gain.exp()
    return torch.cat([features, gain * coordinates(parameters, features, similarity)], dim=-1)


def embedded_outputs(
    parameters: TransferParameters, features_EQF: Tensor, head_EFT: Tensor, similarity: Similarity
) -> Tensor:
    """(E, Q, T) what a head on `embed`'s features, with the bias as last row, answers.

    The learned gain multiplies the head instead of the features: with a fixed projection no derivative then runs
    through the rows, which are far larger than the head.
    """
    width = features_EQF.shape[-1]
    weight_EFT, metric_EPT, bias_E1T = head_EFT.split([width, head_EFT.shape[-2] - width - 1, 1], dim=-2)
    outputs_EQT: Tensor = features_EQF @ weight_EFT + bias_E1T
    if not parameters.projection_PF.shape[-2]:
        return outputs_EQT
    gain = parameters.log_metric_gain.exp()
    metric_EQT: Tensor = coordinates(parameters, features_EQF, similarity) @ (gain * metric_EPT)
    return outputs_EQT + metric_EQT


def inner_products(
    parameters: TransferParameters, support_ESF: Tensor, rows_ENF: Tensor, similarity: Similarity
) -> Tensor:
    """(E, S, N) inner products of `embed`'s features and the bias column; `rows_ENF` begins with the support.

    They depend on no learned parameter but the gain (and the projection), which meets them only once they are small.
    """
    products_ESN: Tensor = support_ESF @ rows_ENF.mT + 1
    if not parameters.projection_PF.shape[-2]:
        return products_ESN
    metric_ENP = coordinates(parameters, rows_ENF, similarity)
    metric_ESN: Tensor = metric_ENP[:, : support_ESF.shape[1]] @ metric_ENP.mT
    return products_ESN + (2 * parameters.log_metric_gain).exp() * metric_ESN
