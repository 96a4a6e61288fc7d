"""A transfer task as tensors, batched over E, so that meta-training and adaptation run the same mathematics."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: What a nat of held-out or support likelihood counts as evidence: rows are alike, they share their training rows, and
#: models err together.
EVIDENCE = 0.3
#: Nats, per root of the number of rows, by which one domain is ahead of its equal now and then.
CHANCE = 0.5
#: Share of rows of which no head knows anything: a confident head that misses one of two has not failed.
ODD_ROWS = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferTask:
    """E tasks of one shape: S support rows of a target, M source rows of D source domains, T outputs.

    `*_targets` are one-hot rows (classification) or standardised labels of width 1 (regression). `source_usable_EM` is
    1 where the row's label names a target class, 0 for padding: a label the target does not have is never used.
    `fit_ED` and `prior_EDTF`/`prior_bias_EDT`: for each domain, the head fitted on that domain alone with its classes
    in the target's order, and how well it explains the support (see `domain_fit`). `known_ED` is 1 where such a head
    exists.
    """

    support_ESF: Tensor
    support_targets_EST: Tensor
    source_EMF: Tensor
    source_targets_EMT: Tensor
    source_usable_EM: Tensor
    source_domain_EM: Tensor
    prior_EDTF: Tensor
    prior_bias_EDT: Tensor
    known_ED: Tensor
    classification: bool

    @property
    def n_way(self) -> int:
        return self.support_targets_EST.shape[-1]

    @property
    def has_usable_sources(self) -> bool:
        return bool(self.source_usable_EM.any())


def domain_outputs(task: TransferTask, rows_ENF: Tensor) -> Tensor:
    """(E, D, T, N): what each domain's own head answers on `rows_ENF`."""
    return torch.einsum("edtf,enf->edtn", task.prior_EDTF, rows_ENF) + task.prior_bias_EDT[..., None]


def domain_fit(task: TransferTask, outputs_EDTS: Tensor | None = None) -> Tensor:
    """(E, D): how well each domain's own head explains the target support; 0 for a useless or missing head, at most 1.

    Classification: 1 + mean log-likelihood in units of guessing's, floored at -1. Regression: 1 - relative squared
    error. A head trained on flipped labels scores below zero, which is what tells a hostile source from an unhelpful
    one. `outputs_EDTS` are the heads' answers on the support where the caller has them already.
    """
    if outputs_EDTS is None:
        outputs_EDTS = domain_outputs(task, task.support_ESF)
    targets_E1TS = task.support_targets_EST.mT[:, None]
    if task.classification:
        gain_ED = _log_likelihoods(task, outputs_EDTS).mean(-1) / math.log(max(task.n_way, 2)) + 1
    else:
        error_ED = (outputs_EDTS - targets_E1TS).square().mean((-1, -2))
        gain_ED = 1 - error_ED / targets_E1TS.square().mean((-1, -2)).clamp_min(1e-6)
    return gain_ED.clamp(-1.0, 1.0) * task.known_ED


def _log_likelihoods(task: TransferTask, outputs_EDTS: Tensor) -> Tensor:
    """(E, D, S) of each support row's class under each domain's head."""
    # Ridge heads answer on a 0..1 scale; 5 turns a clear answer into a clear probability.
    log_probs_EDTS = torch.log_softmax(5.0 * outputs_EDTS, dim=-2)
    return (log_probs_EDTS * task.support_targets_EST.mT[:, None]).sum(-2)


def explained_nats(task: TransferTask) -> Tensor:
    """(E,) by how many nats the domain that explains the support best does so better than guessing (classification).

    Below zero where every domain says the opposite of the labels; -inf where none may speak. A domain is asked about
    the rows of classes that its head knows.
    """
    probs_EDS = _log_likelihoods(task, domain_outputs(task, task.support_ESF)).exp()
    nats_EDS = torch.log((1 - ODD_ROWS) * probs_EDS * task.n_way + ODD_ROWS)
    knows_EDT = task.prior_EDTF.any(-1).to(nats_EDS)
    asked_EDS = torch.einsum("edt,est->eds", knows_EDT, task.support_targets_EST)
    return (nats_EDS * asked_EDS).sum(-1).masked_fill(task.known_ED == 0, -torch.inf).amax(1)


def domain_evidence(task: TransferTask, fit_ED: Tensor) -> Tensor:
    """(E, D) log-weight of each domain, 0 for the one that explains the support best: a tempered posterior.

    The fit is a mean over rows. What tells a misleading domain from an honest one is its sum: two rows say little,
    twenty are as good as proof. Differences that honest domains show by chance do not count.
    """
    if not fit_ED.shape[1]:
        return fit_ED
    n_support, n_way = task.support_targets_EST.shape[-2:]
    nats = math.log(max(n_way, 2)) if task.classification else 0.5
    best_E1 = fit_ED.masked_fill(task.known_ED == 0, -1.0).amax(1, keepdim=True)
    behind_ED = n_support * nats * (best_E1 - fit_ED)
    return -EVIDENCE * (behind_ED - CHANCE * math.sqrt(n_support)).clamp_min(0) * task.known_ED


def describe(task: TransferTask, fit_ED: Tensor | None = None) -> Tensor:
    """(E, 7) the task's set-embedding for the hyper-parameter generator.

    1, log shots, log ways, best and mean domain fit, whether a domain knows the classes, log source rows. `fit_ED` is
    the domains' fit where the caller has it already.
    """
    n_support, n_way = task.support_targets_EST.shape[-2:]
    if fit_ED is None:
        fit_ED = domain_fit(task)
    ones_E = torch.ones_like(task.support_ESF[:, 0, 0])
    known_E = task.known_ED.sum(1)
    best_E = fit_ED.masked_fill(task.known_ED == 0, -1).amax(1) if fit_ED.shape[1] else 0 * ones_E
    return torch.stack(
        [
            ones_E,
            math.log(n_support / n_way) / 3 * ones_E,
            math.log(n_way) / 3 * ones_E,
            best_E * (known_E > 0),
            fit_ED.sum(1) / known_E.clamp_min(1),
            (known_E > 0).to(ones_E),
            task.source_usable_EM.sum(1).log1p() / 5,
        ],
        dim=1,
    )


DESCRIPTION_WIDTH = 7
