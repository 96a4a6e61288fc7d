"""Source domains in one feature space: their rows, their own heads, and the task they form with a target support."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.errors import IncompatibleDomain
from learning.heads import fit_ridge, one_hot, zero_head
from learning.task import TransferTask
from learning.types import Domain, FittedFeaturiser

#: Regularisation of a domain's own head: sources have hundreds of rows, so its exact value matters little.
DOMAIN_REGULARISATION = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceBank:
    """D domains, N rows, C = union of their class names (T = 1 for regression).

    `labels_N` indexes `classes`; `values_N` holds a regression's labels; `row_N` is the row's place in its own dataset.
    `head_DTF` and `head_bias_DT` answer in one-hot scale (classification) or label units; `knows_DT` tells which
    classes a domain has. `alone_NG` are the rows as a learner that transfers nothing would see them, where that differs
    from `features_NF`: by the rootstock instead of under a graft.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    features_NF: Tensor
    labels_N: Tensor
    values_N: Tensor
    domain_N: Tensor
    row_N: Tensor
    head_DTF: Tensor
    head_bias_DT: Tensor
    knows_DT: Tensor
    alone_NG: Tensor | None = None

    @property
    def classification(self) -> bool:
        return bool(self.classes)

    @property
    def width(self) -> int:
        return self.features_NF.shape[1]

    def shared_with(self, classes: Sequence[str]) -> frozenset[str]:
        """The target's classes that sources name, if they are at least half of them; else none.

        A thousand source rows of one class among seventy would teach a head that class and nothing else.
        """
        found = frozenset(classes) & frozenset(self.classes)
        return found if 2 * len(found) >= len(classes) else frozenset()


def stratified_subsample(labels_N: Tensor, max_rows: int, generator: torch.Generator) -> Tensor:
    """Sorted indices of at most `max_rows` rows, taking from every label in proportion but at least one."""
    if len(labels_N) <= max_rows:
        return torch.arange(len(labels_N))
    order_N = torch.randperm(len(labels_N), generator=generator)
    # Rank within its own label, as a fraction: taking the smallest fractions keeps the proportions.
    fraction_N = torch.empty(len(labels_N), dtype=torch.float64)
    for label in labels_N.unique():
        members = order_N[labels_N[order_N] == label]
        fraction_N[members] = torch.arange(len(members), dtype=torch.float64) / len(members)
    return fraction_N.argsort(stable=True)[:max_rows].sort().values


def _domain_head(features_NF: Tensor, targets_NT: Tensor, *, classification: bool) -> tuple[Tensor, Tensor]:
    """Labels of a regression are pulled toward their own mean: toward zero, large labels would all be missed."""
    prior = zero_head(targets_NT.shape[1], features_NF.shape[1])
    if not classification:
        prior = replace(prior, bias_T=targets_NT.mean(0))
    head = fit_ridge(features_NF, targets_NT, regularisation=DOMAIN_REGULARISATION, prior=prior).head
    return head.weight_TF, head.bias_T


def build_bank(
    domains: Sequence[Domain],
    featuriser: FittedFeaturiser,
    *,
    max_rows: int,
    generator: torch.Generator,
    alone: FittedFeaturiser | None = None,
) -> SourceBank:
    """All domains in the space of `featuriser`, each subsampled to `max_rows`, with its own ridge head.

    `alone` makes the bank's `alone_NG`.

    Raises `IncompatibleDomain` where classification and regression domains are mixed.
    """
    if len({domain.data.task for domain in domains}) != 1:
        raise IncompatibleDomain("sources mix classification and regression", hint="use sources of one task")
    classes = tuple(sorted({name for domain in domains for name in domain.data.classes}))
    position = {name: i for i, name in enumerate(classes)}
    features, labels, values, places, rows, heads, biases, knows, apart = [], [], [], [], [], [], [], [], []
    for d, domain in enumerate(domains):
        kept_N = stratified_subsample(_strata(domain.data.labels_N, domain.data.classes), max_rows, generator)
        data = domain.data.select(kept_N)
        features_NF = featuriser.transform(data.inputs)
        to_union = torch.tensor([position[name] for name in data.classes], dtype=torch.int64)
        labels_N = to_union[data.labels_N] if classes else torch.zeros(len(data), dtype=torch.int64)
        targets_NT = one_hot(labels_N, len(classes)) if classes else data.labels_N.double()[:, None]
        weight_TF, bias_T = _domain_head(features_NF, targets_NT, classification=bool(classes))
        features.append(features_NF)
        apart.append(alone.transform(data.inputs) if alone else features_NF[:, :0])
        labels.append(labels_N)
        values.append(torch.zeros(len(data), dtype=torch.float64) if classes else data.labels_N.double())
        places.append(torch.full((len(data),), d))
        rows.append(kept_N if domain.rows_N is None else domain.rows_N[kept_N])
        heads.append(weight_TF)
        biases.append(bias_T)
        knows.append(targets_NT.sum(0) > 0 if classes else torch.ones(1, dtype=torch.bool))
    return SourceBank(
        names=tuple(domain.name for domain in domains),
        classes=classes,
        features_NF=torch.cat(features),
        labels_N=torch.cat(labels),
        values_N=torch.cat(values),
        domain_N=torch.cat(places),
        row_N=torch.cat(rows),
        head_DTF=torch.stack(heads),
        head_bias_DT=torch.stack(biases),
        knows_DT=torch.stack(knows),
        alone_NG=torch.cat(apart) if alone else None,
    )


def _strata(labels_N: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Labels to stratify by; a regression is one stratum."""
    return labels_N if classes else torch.zeros(len(labels_N), dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class LabelScale:
    """Regression labels standardised by the target support; (0, 1) for classification."""

    mean: float = 0.0
    deviation: float = 1.0


def label_scale(values_S: Tensor) -> LabelScale:
    deviation = float(values_S.double().std(correction=0)) if len(values_S) > 1 else 0.0
    return LabelScale(mean=float(values_S.double().mean()), deviation=deviation if deviation > 1e-9 else 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class BankTask:
    """One transfer task (E = 1) and, for each of its source rows, the bank row it came from."""

    task: TransferTask
    bank_row_M: Tensor


def bank_task(
    bank: SourceBank | None, support_SF: Tensor, support_targets_ST: Tensor, classes: tuple[str, ...], scale: LabelScale
) -> BankTask:
    """The task of a target support and a bank; source rows whose label the target does not have are left out.

    `support_targets_ST` is one-hot in the order of `classes`, or labels standardised by `scale`.
    """
    support_ESF, targets_EST = support_SF.double()[None], support_targets_ST.double()[None]
    n_outputs = targets_EST.shape[2]
    if bank is None:
        return BankTask(
            task=_without_sources(support_ESF, targets_EST, bool(classes)), bank_row_M=torch.zeros(0).long()
        )
    column_T, known_T = _columns(bank, classes)
    target_of_C = torch.full((max(len(bank.classes), 1),), -1)
    target_of_C[column_T[known_T]] = torch.arange(n_outputs)[known_T]
    bank_row_M = (target_of_C[bank.labels_N] >= 0).nonzero()[:, 0]
    if bank.classification:
        source_targets_MT = one_hot(target_of_C[bank.labels_N[bank_row_M]], n_outputs)
    else:
        source_targets_MT = ((bank.values_N[bank_row_M] - scale.mean) / scale.deviation)[:, None]
    prior_DTF, prior_bias_DT, known_D = _priors(bank, column_T, known_T, scale)
    task = TransferTask(
        support_ESF=support_ESF,
        support_targets_EST=targets_EST,
        source_EMF=bank.features_NF[bank_row_M].double()[None],
        source_targets_EMT=source_targets_MT[None],
        source_usable_EM=torch.ones(1, len(bank_row_M), dtype=torch.float64),
        source_domain_EM=bank.domain_N[bank_row_M][None],
        prior_EDTF=prior_DTF[None],
        prior_bias_EDT=prior_bias_DT[None],
        known_ED=known_D.double()[None],
        classification=bool(classes),
    )
    return BankTask(task=task, bank_row_M=bank_row_M)


def _columns(bank: SourceBank, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """For each target output, the bank's output of the same name (0 where there is none), and whether there is one."""
    if bool(classes) != bank.classification:
        raise IncompatibleDomain("the sources and the target are not of one task")
    if not classes:
        return torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    position = {name: i for i, name in enumerate(bank.classes)}
    shared = bank.shared_with(classes)
    column_T = torch.tensor([position.get(name, 0) for name in classes])
    return column_T, torch.tensor([name in shared for name in classes])


def _priors(bank: SourceBank, column_T: Tensor, known_T: Tensor, scale: LabelScale) -> tuple[Tensor, Tensor, Tensor]:
    """The domains' heads with the target's outputs; a domain counts as known where it has two of the classes."""
    has_DT = bank.knows_DT[:, column_T] & known_T
    if not bank.classification:
        weight_DTF = bank.head_DTF / scale.deviation
        return weight_DTF, (bank.head_bias_DT - scale.mean) / scale.deviation, torch.ones(len(bank.names))
    weight_DTF = bank.head_DTF[:, column_T] * has_DT[..., None]
    bias_DT = torch.where(has_DT, bank.head_bias_DT[:, column_T], torch.tensor(1.0 / len(column_T)).double())
    return weight_DTF, bias_DT, (has_DT.sum(1) >= 2).double()


def _without_sources(support_ESF: Tensor, targets_EST: Tensor, classification: bool) -> TransferTask:
    width, n_outputs = support_ESF.shape[2], targets_EST.shape[2]
    nothing = torch.zeros(1, 0, dtype=torch.float64)
    return TransferTask(
        support_ESF=support_ESF,
        support_targets_EST=targets_EST,
        source_EMF=torch.zeros(1, 0, width, dtype=torch.float64),
        source_targets_EMT=torch.zeros(1, 0, n_outputs, dtype=torch.float64),
        source_usable_EM=nothing,
        source_domain_EM=nothing.long(),
        prior_EDTF=torch.zeros(1, 0, n_outputs, width, dtype=torch.float64),
        prior_bias_EDT=torch.zeros(1, 0, n_outputs, dtype=torch.float64),
        known_ED=nothing,
        classification=classification,
    )
