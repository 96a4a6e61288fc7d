"""Transfer learner 2: generate the base learner's initial parameters from the task, then fine-tune them on the target.

The generated head mixes the source domains' own heads with the target's class prototypes (Proto-MAML: Triantafillou et
al. 2020); fine-tuning takes a few gradient steps on the head alone (ANIL: Raghu et al. 2020) with a learned step size
(Meta-SGD: Li et al. 2017) and pull toward the generated head. The inner gradient is written analytically, so that
meta-training differentiates through the steps without higher-order autograd. Batched over E tasks.

Outputs come before rows in what is computed here (T x S): the softmax over T then runs along whole vectors of rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learning.config import Similarity
from learning.heads import with_bias
from learning.parameters import TransferParameters, embed, embedded_outputs, inner_products
from learning.task import TransferTask, describe, domain_evidence, domain_fit, domain_outputs


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedInit:
    """`head_EFT` with the bias as last row, on embedded features; `domain_weights_ED` sum to 1 where sources exist.

    `step_E` is relative to the inverse curvature of the support loss.
    """

    head_EFT: Tensor
    domain_weights_ED: Tensor
    regularisation_E: Tensor
    step_E: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Recipe:
    """How a task's head is mixed and fine-tuned, in numbers: `GeneratedInit` before there is a head."""

    source_scale_E: Tensor
    prototype_scale_E: Tensor
    domain_weights_ED: Tensor
    regularisation_E: Tensor
    step_E: Tensor


def _recipe(parameters: TransferParameters, task: TransferTask, fit_ED: Tensor) -> _Recipe:
    generated_E4 = describe(task, fit_ED).to(task.support_ESF) @ parameters.init_4D.T
    log_source_E, log_prototype_E, log_regularisation_E, log_step_E = generated_E4.unbind(1)
    logits_ED = (parameters.domain_affinity * fit_ED + domain_evidence(task, fit_ED)).masked_fill(
        task.known_ED == 0, -1e9
    )
    return _Recipe(
        source_scale_E=log_source_E.clamp(-6, 4).exp() if task.classification else torch.sigmoid(log_source_E),
        prototype_scale_E=log_prototype_E.clamp(-6, 4).exp(),
        domain_weights_ED=torch.softmax(logits_ED, dim=1) * task.known_ED if fit_ED.shape[1] else fit_ED,
        regularisation_E=log_regularisation_E.clamp(-10, 3).exp(),
        step_E=log_step_E.clamp(-5, 0.6).exp(),
    )


def _class_means(targets_EST: Tensor) -> Tensor:
    """(E, T, S): what each row counts in the mean of each class; nothing in that of a class without rows."""
    return (targets_EST / targets_EST.sum(1, keepdim=True).clamp_min(1e-6)).mT


def _relative_to_common(values_ETX: Tensor, targets_EST: Tensor) -> Tensor:
    """Less the mean over the classes that have a row; 0 for those that have none (held out, in a fold).

    Subtracting what the classes share changes no answer and keeps the pull toward the head about their differences.
    A class without a row scores what is common: its absence must not tell the held-out label.
    """
    present_ET1 = (targets_EST.sum(1) > 0).to(values_ETX)[..., None]
    common_E1X = (values_ETX * present_ET1).sum(1, keepdim=True) / present_ET1.sum(1, keepdim=True)
    return (values_ETX - common_E1X) * present_ET1


def _prototype_head(embedded_ESF: Tensor, targets_EST: Tensor) -> Tensor:
    """(E, F + 1, T): scores are minus half the squared distance to a class mean, up to a common term."""
    prototypes_ETF = _class_means(targets_EST) @ embedded_ESF
    bias_ET1 = -0.5 * prototypes_ETF.square().sum(-1, keepdim=True)
    return _relative_to_common(torch.cat([prototypes_ETF, bias_ET1], dim=-1), targets_EST).mT


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
    recipe = _recipe(parameters, task, domain_fit(task))
    if embedded_ESF is None:
        embedded_ESF = embed(parameters, task.support_ESF, similarity)
    source_EFT = _source_head(task, recipe.domain_weights_ED, embedded_ESF.shape[-1])
    head_EFT = recipe.source_scale_E[:, None, None] * source_EFT
    if task.classification:
        prototypes_EFT = _prototype_head(embedded_ESF, task.support_targets_EST)
        head_EFT = head_EFT + recipe.prototype_scale_E[:, None, None] * prototypes_EFT
    return GeneratedInit(
        head_EFT=head_EFT,
        domain_weights_ED=recipe.domain_weights_ED,
        regularisation_E=recipe.regularisation_E,
        step_E=recipe.step_E,
    )


def _curvature(gram: Tensor, n_rows: int, *, classification: bool) -> Tensor:
    """(E,) an upper bound of the mean loss's curvature: half the top eigenvalue for softmax, all of it for squares.

    `gram` is the rows' Gram matrix or their scatter: their top eigenvalues are the same.
    """
    top_E: Tensor = torch.linalg.eigvalsh(gram.detach())[..., -1] / n_rows
    return 0.5 * top_E if classification else 2 * top_E


def _descend(
    start_ETS: Tensor,
    targets_ETS: Tensor,
    gram: Tensor,
    rows_ESF: Tensor | None,
    *,
    steps: int,
    classification: bool,
    step_E: Tensor,
    regularisation_E: Tensor,
) -> Tensor:
    """The change of the head by `fine_tune`'s steps, where the initial head answers `start_ETS` on the support.

    The head moves within the span of the rows, so what is followed is their coefficients (E, T, S), at the price of
    their Gram matrix alone. Given `rows_ESF`, with which `gram` is their scatter, it is the head itself (E, T, F): the
    same steps, cheaper where there are more rows than features.
    """
    n_rows = start_ETS.shape[-1]
    pull_E11 = regularisation_E[:, None, None]
    curvature_E11 = _curvature(gram, n_rows, classification=classification)[:, None, None]
    rate_E11 = step_E[:, None, None] / (curvature_E11 + 2 * pull_E11)
    kept_E11, moved_E11 = 1 - 2 * rate_E11 * pull_E11, rate_E11 * ((1.0 if classification else 2.0) / n_rows)
    effect = gram if rows_ESF is None else rows_ESF.mT
    change = start_ETS.new_zeros(*start_ETS.shape[:2], effect.shape[1])
    for _ in range(steps):
        outputs_ETS = torch.baddbmm(start_ETS, change, effect)
        error_ETS = (outputs_ETS.softmax(1) if classification else outputs_ETS) - targets_ETS
        change = kept_E11 * change - moved_E11 * (error_ETS if rows_ESF is None else error_ETS @ rows_ESF)
    return change


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
    dual = rows_ESF.shape[1] <= rows_ESF.shape[2]
    change = _descend(
        init.head_EFT.mT @ rows_ESF.mT,
        targets_EST.mT,
        rows_ESF @ rows_ESF.mT if dual else rows_ESF.mT @ rows_ESF,
        None if dual else rows_ESF,
        steps=steps,
        classification=classification,
        step_E=init.step_E if step_E is None else step_E,
        regularisation_E=init.regularisation_E if regularisation_E is None else regularisation_E,
    )
    return init.head_EFT + (change @ rows_ESF if dual else change).mT


def init_outputs(
    parameters: TransferParameters, task: TransferTask, query_EQF: Tensor, *, similarity: Similarity, steps: int
) -> Tensor:
    """(E, Q, T) outputs of the fine-tuned generated head: what meta-training differentiates."""
    n_rows, width = task.support_ESF.shape[1:]
    if n_rows <= width + parameters.projection_PF.shape[-2] + 1:
        return _dual_outputs(parameters, task, query_EQF, similarity=similarity, steps=steps)
    embedded_ESF = embed(parameters, task.support_ESF, similarity)
    init = generate(parameters, task, similarity=similarity, embedded_ESF=embedded_ESF)
    head_EFT = fine_tune(init, embedded_ESF, task.support_targets_EST, steps=steps, classification=task.classification)
    return embedded_outputs(parameters, query_EQF, head_EFT, similarity)


def _dual_outputs(
    parameters: TransferParameters, task: TransferTask, query_EQF: Tensor, *, similarity: Similarity, steps: int
) -> Tensor:
    """`init_outputs` without a head: its answers are the domains' answers and inner products with the support.

    Neither depends on what is learned but by single factors, so no derivative runs through anything as wide as F.
    """
    n_support, targets_EST = task.support_ESF.shape[1], task.support_targets_EST
    rows_ENF = torch.cat([task.support_ESF, query_EQF], dim=1)
    products_ESN = inner_products(parameters, task.support_ESF, rows_ENF, similarity)
    gram_ESS, cross_ESQ = products_ESN.split([n_support, query_EQF.shape[1]], dim=2)
    answers_EDTN = domain_outputs(task, rows_ENF)
    recipe = _recipe(parameters, task, domain_fit(task, answers_EDTN[..., :n_support]))
    source_ETN = torch.einsum("ed,edtn->etn", recipe.domain_weights_ED, answers_EDTN)
    start_ETN = recipe.source_scale_E[:, None, None] * source_ETN
    if task.classification:
        prototypes_ETN = _prototype_outputs(products_ESN, targets_EST)
        start_ETN = start_ETN + recipe.prototype_scale_E[:, None, None] * prototypes_ETN
    start_ETS, start_ETQ = start_ETN.split([n_support, query_EQF.shape[1]], dim=2)
    change_ETS = _descend(
        start_ETS,
        targets_EST.mT,
        gram_ESS,
        None,
        steps=steps,
        classification=task.classification,
        step_E=recipe.step_E,
        regularisation_E=recipe.regularisation_E,
    )
    return torch.baddbmm(start_ETQ, change_ETS, cross_ESQ).mT


def _prototype_outputs(products_ESN: Tensor, targets_EST: Tensor) -> Tensor:
    """(E, T, N): what `_prototype_head` answers, from inner products of the support with rows that begin with it."""
    means_ETS = _class_means(targets_EST)
    outputs_ETN = means_ETS @ products_ESN
    norms_ET1 = (outputs_ETN[..., : means_ETS.shape[2]] * means_ETS).sum(-1, keepdim=True)
    return _relative_to_common(outputs_ETN - 0.5 * norms_ET1, targets_EST)
