"""The head of a support set alone: its targets, its regularisation, its fit. What every candidate falls back to."""

import torch
from torch import Tensor

from learning.config import TargetOnlyOptions
from learning.dealing import deal_folds
from learning.heads import (
    LOGISTIC_REGULARISATION,
    LinearHead,
    fit_logistic,
    fit_ridge,
    one_hot,
    ridge_path,
)
from learning.sources import LabelScale, label_scale
from learning.statistics import RidgeProblem
from learning.types import LabelledSet

RIDGE_GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
LOGISTIC_GRID = (0.01, 0.05, 0.25)
#: Beyond this many numbers (rows x classes) neighbouring regularisations answer alike and searching only costs time.
GRID_LIMIT = 2_000


def support_targets(support: LabelledSet) -> tuple[Tensor, LabelScale]:
    """(S, T) one-hot or standardised labels, and the scale of the latter."""
    if support.classes:
        return one_hot(support.labels_N, len(support.classes)), LabelScale()
    scale = label_scale(support.labels_N)
    return ((support.labels_N.double() - scale.mean) / scale.deviation)[:, None], scale


def in_label_units(head: LinearHead, scale: LabelScale) -> LinearHead:
    return LinearHead(weight_TF=head.weight_TF * scale.deviation, bias_T=head.bias_T * scale.deviation + scale.mean)


def choose_regularisation(features_SF: Tensor, support: LabelledSet, options: TargetOnlyOptions, seed: int) -> float:
    """The given regularisation, or the one of the grid with the least held-out error."""
    if options.regularisation is not None:
        return options.regularisation
    if support.classes and options.head == "logistic":
        return _choose_logistic(features_SF, support, seed)
    targets_ST, _ = support_targets(support)
    fits = ridge_path(features_SF, targets_ST, torch.ones(len(targets_ST)), RIDGE_GRID)
    return min(fits, key=lambda fit: float((fit[1].held_out_ST - targets_ST).square().mean()))[0]


def fit_head(features_SF: Tensor, support: LabelledSet, options: TargetOnlyOptions, seed: int) -> LinearHead:
    """The head of a support set, in label units."""
    targets_ST, scale = support_targets(support)
    strength = choose_regularisation(features_SF, support, options, seed)
    if support.classes and options.head == "logistic":
        return fit_logistic(features_SF, support.labels_N, len(support.classes), regularisation=strength)
    return in_label_units(fit_ridge(features_SF, targets_ST, regularisation=strength).head, scale)


def ridge_problem(features_SF: Tensor, support: LabelledSet, options: TargetOnlyOptions) -> RidgeProblem | None:
    """What `fit_head` fitted with a regularisation already chosen; None for a logistic head."""
    if options.regularisation is None or (support.classes and options.head == "logistic"):
        return None
    return RidgeProblem(
        features_NF=features_SF,
        targets_NT=support_targets(support)[0] if support.classes else support.labels_N.double()[:, None],
        weights_N=torch.ones(len(support), dtype=torch.float64),
        n_support=len(support),
        regularisation=options.regularisation,
    )


def _choose_logistic(features_SF: Tensor, support: LabelledSet, seed: int) -> float:
    """The regularisation of `LOGISTIC_GRID` with the best held-out likelihood over four folds."""
    n_classes, labels_S = len(support.classes), support.labels_N
    if len(labels_S) * n_classes > GRID_LIMIT or int(torch.bincount(labels_S, minlength=n_classes).min()) < 2:
        return LOGISTIC_REGULARISATION
    fold_S = deal_folds(labels_S, 4, torch.Generator().manual_seed(seed))
    losses = []
    for strength in LOGISTIC_GRID:
        log_probs = []
        for fold in fold_S.unique():
            train_S = fold_S != fold
            head = fit_logistic(features_SF[train_S], labels_S[train_S], n_classes, regularisation=strength)
            held_QC = head(features_SF[~train_S]).log_softmax(1)
            log_probs.append(held_QC.gather(1, labels_S[~train_S, None]))
        losses.append(-float(torch.cat(log_probs).mean()))
    return LOGISTIC_GRID[losses.index(min(losses))]
