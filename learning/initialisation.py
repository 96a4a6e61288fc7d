"""Transfer learner 2: generate the base learner's initial parameters from the task, then fine-tune them on the target.

The generated head mixes the source domains' own heads with the target's class prototypes (Proto-MAML: Triantafillou et
al. 2020); fine-tuning takes a few gradient steps on the head alone (ANIL: Raghu et al. 2020) with a learned step size
(Meta-SGD: Li et al. 2017) and pull toward the generated head. The inner gradient is written analytically, so that
meta-training differentiates through the steps without higher-order autograd. Batched over E tasks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learning.config import Similarity
from learning.heads import with_bias
from learning.parameters import TransferParameters, embed, embedded_outputs
from learning.task import TransferTask, describe, domain_fit


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedInit:
    """`head_EFT` with the bias as last row, on embedded features; `domain_weights_ED` sum to 1 where sources exist.

    `step_E` is relative to the inverse curvature of the support loss.
    """

    head_EFT: Tensor
    domain_weights_ED: Tensor
    regularisation_E: Tensor
    step_E: Tensor


def _prototype_head(embedded_ESF: Tensor, targets_EST: Tensor) -> Tensor:
    """(E, F + 1, T): scores are minus half the squared distance to a class mean, up to a common term.

    A class without a row (held out, in a fold) scores the common term: its absence must not tell the held-out label.
    """
    counts_ET1 = targets_EST.sum(1)[..., None]
    prototypes_ETF = (targets_EST.mT @ embedded_ESF) / counts_ET1.clamp_min(1e-6)
    bias_ET1 = -0.5 * prototypes_ETF.square().sum(-1, keepdim=True)
    head_ETF = torch.cat([prototypes_ETF, bias_ET1], dim=-1)
    # Subtracting the common mean changes no answer and keeps the pull toward this head about class differences.
    present_ET1 = (counts_ET1 > 0).to(head_ETF)
    common_E1F = (head_ETF * present_ET1).sum(1, keepdim=True) / present_ET1.sum(1, keepdim=True)
    return ((head_ETF - common_E1F) * present_ET1).mT


def _source_head(task: TransferTask, weights_ED: Tensor, width: int) -> Tensor:
    """(E, F + 1, T): the weighted mixture of the domains' heads, zero on the metric coordinates."""
    weight_ETF = torch.einsum("ed,edtf->etf", weights_ED, task.prior_EDTF)
    bias_ET = torch.einsum("ed,edt->et", weights_ED, task.prior_bias_EDT)
    padding = torch.zeros(*weight_ETF.shape[:2], width - weight_ETF.shape[2], dtype=weight_ETF.dtype)
    return torch.cat([weight_ETF, padding.to(weight_ETF.device), bias_ET[..., None]], dim=-1).mT


def generate(
    parameters: TransferParameters, task: TransferTask, *, similarity: Similarity, embedded_ESF: Tensor | None = None
) -> GeneratedInit:
    """The initial head and the regime of its fine-tuning, from the task's description and its domains' fits.

    `embedded_ESF` is the embedded support where the caller has it already.
    """
    generated_E4 = describe(task).to(task.support_ESF) @ parameters.init_4D.T
    log_source_E, log_prototype_E, log_regularisation_E, log_step_E = generated_E4.unbind(1)
    fit_ED = domain_fit(task)
    logits_ED = (parameters.domain_affinity * fit_ED).masked_fill(task.known_ED == 0, -1e9)
    weights_ED = torch.softmax(logits_ED, dim=1) * task.known_ED if fit_ED.shape[1] else fit_ED
    if embedded_ESF is None:
        embedded_ESF = embed(parameters, task.support_ESF, similarity)
    source_scale_E = log_source_E.clamp(-6, 4).exp() if task.classification else torch.sigmoid(log_source_E)
    head_EFT = source_scale_E[:, None, None] * _source_head(task, weights_ED, embedded_ESF.shape[-1])
    if task.classification:
        prototypes_EFT = _prototype_head(embedded_ESF, task.support_targets_EST)
        head_EFT = head_EFT + log_prototype_E.clamp(-6, 4).exp()[:, None, None] * prototypes_EFT
    return GeneratedInit(
        head_EFT=head_EFT,
        domain_weights_ED=weights_ED,
        regularisation_E=log_regularisation_E.clamp(-10, 3).exp(),
        step_E=log_step_E.clamp(-5, 0.6).exp(),
    )


def _curvature(gram: Tensor, n_rows: int, *, classification: bool) -> Tensor:
    """(E,) an upper bound of the mean loss's curvature: half the top eigenvalue for softmax, all of it for squares.

    `gram` is the rows' Gram matrix or their scatter: their top eigenvalues are the same.
    """
    top_E: Tensor = torch.linalg.eigvalsh(gram.detach())[..., -1] / n_rows
    return 0.5 * top_E if classification else 2 * top_E


def fine_tune(
    init: GeneratedInit,
    embedded_ESF: Tensor,
    targets_EST: Tensor,
    *,
    steps: int,
    classification: bool,
    step_E: Tensor | None = None,
    regularisation_E: Tensor | None = None,
) -> Tensor:
    """(E, F + 1, T) after `steps` full-batch gradient steps on the mean support loss plus the pull toward the init.

    Loss: softmax cross-entropy, or squared error. The step is `step_E / (curvature + pull)`, so a step of 1 never
    diverges. 0 steps: the init itself.
    """
    rows_ESF = with_bias(embedded_ESF)
    n_rows, width = rows_ESF.shape[1:]
    dual = n_rows <= width
    gram = rows_ESF @ rows_ESF.mT if dual else rows_ESF.mT @ rows_ESF
    pull_E11 = (init.regularisation_E if regularisation_E is None else regularisation_E)[:, None, None]
    relative_E11 = (init.step_E if step_E is None else step_E)[:, None, None]
    rate_E11 = relative_E11 / (_curvature(gram, n_rows, classification=classification)[:, None, None] + 2 * pull_E11)
    start_EST = rows_ESF @ init.head_EFT
    slope = (1.0 if classification else 2.0) / n_rows
    # The head moves within the span of the rows. Where they are fewer than features, what is followed is their
    # coefficients (S x T) instead of the head (F x T): the same steps, at the price of the Gram matrix.
    change = torch.zeros_like(start_EST if dual else init.head_EFT)
    for _ in range(steps):
        outputs_EST = start_EST + (gram if dual else rows_ESF) @ change
        error_EST = (outputs_EST.softmax(-1) if classification else outputs_EST) - targets_EST
        gradient = slope * (error_EST if dual else rows_ESF.mT @ error_EST)
        change = change - rate_E11 * (gradient + 2 * pull_E11 * change)
    return init.head_EFT + (rows_ESF.mT @ change if dual else change)


def init_outputs(
    parameters: TransferParameters, task: TransferTask, query_EQF: Tensor, *, similarity: Similarity, steps: int
) -> Tensor:
    """(E, Q, T) outputs of the fine-tuned generated head: what meta-training differentiates."""
    embedded_ESF = embed(parameters, task.support_ESF, similarity)
    init = generate(parameters, task, similarity=similarity, embedded_ESF=embedded_ESF)
    head_EFT = fine_tune(init, embedded_ESF, task.support_targets_EST, steps=steps, classification=task.classification)
    return embedded_outputs(parameters, query_EQF, head_EFT, similarity)
