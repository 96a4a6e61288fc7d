"""Transfer learner 1: weight source examples by a learned similarity to the target, fit on weighted source and target.

The similarity is a learned projection compared by cosine or Euclidean distance (prototypical networks: Snell et al.
2017); the weights use the target's labels, because re-weighting without them is weak and can hurt (TrAdaBoost: Dai et
al. 2007). Everything is differentiable through the weighted closed-form head (R2-D2: Bertinetto et al. 2019), batched
over E tasks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learning.config import Selection, Similarity
from learning.heads import ridge_solve, with_bias
from learning.parameters import TransferParameters, coordinates, embed, embedded_outputs
from learning.task import TransferTask, describe, domain_evidence, domain_fit

#: No source row counts for more than this many average ones.
MAX_RELATIVE_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedSources:
    """`weights_EM`: each source row's weight, where a target row has 1. The rest is generated for the fit."""

    weights_EM: Tensor
    regularisation_E: Tensor
    scale_E: Tensor


def similarities(parameters: TransferParameters, task: TransferTask, similarity: Similarity) -> Tensor:
    """(E, M, S) similarity of each source row to each support row; larger is closer."""
    source_EMP = coordinates(parameters, task.source_EMF, similarity)
    support_ESP = coordinates(parameters, task.support_ESF, similarity)
    if similarity == "cosine":
        return source_EMP @ support_ESP.mT
    squared_EMS: Tensor = torch.cdist(source_EMP, support_ESP).square()
    return -squared_EMS / math.sqrt(source_EMP.shape[-1])


def _same_label(task: TransferTask) -> Tensor:
    """(E, M, S) in [0, 1]: whether a source row's label is a support row's; for regression, how near they are."""
    if task.classification:
        return task.source_targets_EMT @ task.support_targets_EST.mT
    return torch.exp(-2 * torch.cdist(task.source_targets_EMT, task.support_targets_EST).square())


def affinities(parameters: TransferParameters, task: TransferTask, similarity: Similarity) -> Tensor:
    """(E, M) unnormalised log-weights: similarity to the support, label agreement, and the domain's fit."""
    similarity_EMS = similarities(parameters, task, similarity)
    same_EMS = _same_label(task)
    near_EM = _mean_similarity(similarity_EMS, same_EMS)
    far_EM = _mean_similarity(similarity_EMS, 1 - same_EMS)
    fit_ED = domain_fit(task)
    fit_EM, evidence_EM = (of_ED.gather(1, task.source_domain_EM) for of_ED in (fit_ED, domain_evidence(task, fit_ED)))
    features_EM3 = torch.stack([near_EM, near_EM - far_EM, fit_EM], dim=-1)
    return features_EM3 @ parameters.affinity_3 + evidence_EM


def _mean_similarity(similarity_EMS: Tensor, share_EMS: Tensor) -> Tensor:
    """(E, M) mean over the support rows that `share_EMS` counts; over all of them where it counts none.

    A class may have no support row (held out, in a fold): its source rows are then neither near nor far, lest its
    absence tell the held-out label.
    """
    total_EM = share_EMS.sum(-1)
    mean_EM = (similarity_EMS * share_EMS).sum(-1) / total_EM.clamp_min(1e-6)
    return torch.where(total_EM > 1e-6, mean_EM, similarity_EMS.mean(-1))


def _select_top(affinity_EM: Tensor, task: TransferTask, top_k: int) -> Tensor:
    """(E, M) 1 for the `top_k` rows of highest affinity within each class (over all rows for regression)."""
    groups = task.source_targets_EMT.unbind(-1) if task.classification else (torch.ones_like(affinity_EM),)
    kept_EM = torch.zeros_like(affinity_EM)
    for member_EM in groups:
        eligible_EM = affinity_EM.masked_fill((member_EM * task.source_usable_EM) == 0, -torch.inf)
        top_EK, index_EK = eligible_EM.topk(min(top_k, eligible_EM.shape[1]), dim=1)
        # A class of fewer rows fills its top with rows that are not eligible: they must not be kept in its name.
        own_EM = torch.zeros_like(affinity_EM).scatter(1, index_EK, torch.isfinite(top_EK).to(affinity_EM))
        kept_EM = torch.maximum(kept_EM, own_EM)
    return kept_EM


def weigh_sources(
    parameters: TransferParameters,
    task: TransferTask,
    *,
    similarity: Similarity,
    selection: Selection = "soft",
    top_k: int = 200,
    strength: float | None = None,
) -> WeightedSources:
    """Source weights of mean `strength` over the rows in play (None: the generated strength)."""
    log_strength_E, log_regularisation_E, log_scale_E = (
        describe(task).to(task.support_ESF) @ parameters.metric_3D.T
    ).unbind(1)
    strength_E = log_strength_E.clamp(-8, 2).exp() if strength is None else torch.full_like(log_strength_E, strength)
    affinity_EM = affinities(parameters, task, similarity)
    in_play_EM = task.source_usable_EM
    if selection == "top_k" and affinity_EM.shape[1]:
        in_play_EM = _select_top(affinity_EM, task, top_k)
    count_E1 = in_play_EM.sum(1, keepdim=True)
    if affinity_EM.shape[1]:
        masked_EM = affinity_EM.masked_fill(in_play_EM == 0, -1e9)
        relative_EM = torch.softmax(masked_EM, dim=1) * count_E1
    else:
        relative_EM = affinity_EM
    weights_EM = strength_E[:, None] * relative_EM.clamp_max(MAX_RELATIVE_WEIGHT) * in_play_EM
    return WeightedSources(
        weights_EM=weights_EM,
        regularisation_E=log_regularisation_E.clamp(-8, 5).exp(),
        scale_E=log_scale_E.clamp(-3, 5).exp(),
    )


def metric_outputs(
    parameters: TransferParameters, task: TransferTask, query_EQF: Tensor, *, similarity: Similarity
) -> Tensor:
    """(E, Q, T) outputs of the base learner fitted on weighted source and target: what meta-training differentiates."""
    weighted = weigh_sources(parameters, task, similarity=similarity)
    rows_ESF = torch.cat([task.support_ESF, task.source_EMF], dim=1)
    targets_EST = torch.cat([task.support_targets_EST, task.source_targets_EMT], dim=1)
    weights_ES = torch.cat([torch.ones_like(task.support_targets_EST[..., 0]), weighted.weights_EM], dim=1)
    change_EFT, _ = ridge_solve(
        with_bias(embed(parameters, rows_ESF, similarity)), targets_EST, weights_ES, weighted.regularisation_E
    )
    outputs_EQT = embedded_outputs(parameters, query_EQF, change_EFT, similarity)
    return outputs_EQT * weighted.scale_E[:, None, None] if task.classification else outputs_EQT


def effective_sample_size(weights_M: Tensor) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rows carry as much (Kish 1965). 0 without rows."""
    total = float(weights_M.sum())
    return total * total / float(weights_M.square().sum()) if total > 0 else 0.0
