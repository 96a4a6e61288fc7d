"""The base learner of tables: a linear head, a kernel and a forest on one small support, averaged.

On 10 to 50 rows no one of the three is best for every table, and choosing among them by held-out scores is itself a
source of error. So their answers are averaged, by weights that start at a prior and move with the held-out likelihood
(stacked generalisation: Wolpert 1992; here the weights are a tempered posterior instead of a second fit, which ten rows
cannot pay for).

Kernel and forest answer as further features beside those of the table, so the whole is one linear head on one fitted
featuriser. Classification averages logits, regression labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from learning.calibration import fit_temperature
from learning.config import TargetOnlyOptions
from learning.dealing import deal_folds
from learning.encoders.tabular import FittedQuantileFeaturiser, QuantileFeaturiser
from learning.errors import InvalidArtifact
from learning.forest import Forest, grow_forest
from learning.heads import LinearHead, fit_logistic, fit_ridge, ridge_path
from learning.kernels import KernelRidge, fit_kernel
from learning.support_head import choose_regularisation, in_label_units, support_targets
from learning.task import EVIDENCE
from learning.types import Inputs, LabelledSet

#: How much linear head, kernel and forest are trusted before any row was held out.
PRIOR_CLASSIFICATION, PRIOR_REGRESSION = (1.0, 2.0, 2.0), (2.0, 1.0, 2.0)
FOLDS = 5
RIDGE_GRID = (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
#: Kernel answers live in 0..1; where nothing was held out this makes logits of them.
KERNEL_TEMPERATURE = 0.3
LEAST_SHARE = 0.01
#: Answers are kept this small among the features, so that the distance of two rows is that of their table features.
ANSWER_SCALE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedStack:
    """Table features, then the answers of kernel and forest; implements `learning.types.FittedFeaturiser`.

    `logits`: the forest's class shares are taken as logarithms.
    """

    table: FittedQuantileFeaturiser
    kernel: KernelRidge
    forest: Forest
    logits: bool
    graft: str = ""

    @property
    def width(self) -> int:
        return self.table.width + 2 * len(self.kernel.mean_T)

    def transform(self, inputs: Inputs) -> Tensor:
        """(N, width) float32. Raises `InvalidData` as the table's own featuriser does."""
        return self.completed(self.read(inputs))

    @property
    def read_width(self) -> int:
        return self.table.read_width

    def read(self, inputs: Inputs) -> Tensor:
        return self.table.read(inputs)

    def completed(self, rows_NR: Tensor) -> Tensor:
        rows_NF = self.table.completed(rows_NR)
        answers_NT = (self.kernel.answers(rows_NF), _forest_answers(self.forest, rows_NF, logits=self.logits))
        return torch.cat([rows_NF, *(ANSWER_SCALE * answer_NT for answer_NT in answers_NT)], dim=1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able header from which `from_state` restores this featuriser bit by bit."""
        tensors, header = self.table.state()
        members = {"kernel": self.kernel.tensors(), "forest": self.forest.tensors()}
        named = {f"{member}_{name}": t for member, parts in members.items() for name, t in parts.items()}
        return tensors | named, {"table": header, "logits": self.logits}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        """The featuriser that `state` described. Raises `InvalidArtifact` where the parts do not fit together."""
        try:
            table = FittedQuantileFeaturiser.from_state(tensors, header["table"])
            kernel = KernelRidge.from_tensors(_named(tensors, "kernel_"))
            forest = Forest.from_tensors(_named(tensors, "forest_"))
            stack = cls(table=table, kernel=kernel, forest=forest, logits=bool(header["logits"]))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise InvalidArtifact(f"the state of the stacked table featuriser is damaged: {error!r}") from error
        fits = kernel.rows_SF.shape[1] == table.width and len(kernel.mean_T) == forest.value_MT.shape[1]
        if not fits or int(forest.feature_M.max()) >= table.width:
            raise InvalidArtifact("the kernel and the forest of the stacked table featuriser are of another table")
        return stack


@dataclass(frozen=True, kw_only=True)
class StackTuning:
    """The linear head's regularisation, the kernel's temperature, and the weights of linear head, kernel, forest."""

    regularisation: float
    kernel_temperature: float
    weights: tuple[float, float, float]


def tune_stack(featuriser: QuantileFeaturiser, support: LabelledSet, seed: int) -> StackTuning:
    """What suits `support`, by the held-out answers of each member."""
    rows_SF = table_featuriser(featuriser, support).fit([support.inputs]).transform(support.inputs)
    return _tune_classification(rows_SF, support, seed) if support.classes else _tune_regression(rows_SF, support, seed)


def fit_stack(
    featuriser: QuantileFeaturiser, support: LabelledSet, tuning: StackTuning, seed: int
) -> tuple[FittedStack, LinearHead]:
    """The featuriser with all members fitted on `support`, and the head that averages them, in label units."""
    table = table_featuriser(featuriser, support).fit([support.inputs])
    rows_SF = table.transform(support.inputs)
    targets_ST, scale = support_targets(support)
    kernel = fit_kernel(rows_SF, targets_ST, _generator(seed)).kernel
    stack = FittedStack(
        table=table, kernel=kernel, forest=_grow(rows_SF, targets_ST, seed), logits=bool(support.classes)
    )
    linear_weight, kernel_weight, forest_weight = tuning.weights
    if support.classes:
        linear = fit_logistic(
            rows_SF.double(), support.labels_N, len(support.classes), regularisation=tuning.regularisation
        )
        kernel_weight /= tuning.kernel_temperature
    else:
        linear = fit_ridge(rows_SF, targets_ST, regularisation=tuning.regularisation).head
    identity_TT = torch.eye(targets_ST.shape[1], dtype=torch.float64) / ANSWER_SCALE
    weight_TF = torch.cat(
        [linear_weight * linear.weight_TF, kernel_weight * identity_TT, forest_weight * identity_TT], dim=1
    )
    head = LinearHead(weight_TF=weight_TF, bias_T=linear_weight * linear.bias_T)
    return stack, in_label_units(head, scale)


def stack_on(
    table: FittedQuantileFeaturiser, linear: LinearHead, targets_NT: Tensor, rows_NF: Tensor, weights_N: Tensor,
    *, classification: bool, seed: int,
) -> tuple[FittedStack, LinearHead]:  # fmt: skip
    """A kernel and a forest on weighted rows beside a head that was fitted on them, all three averaged in equal parts.

    `linear` takes the columns of `table` and then metric coordinates, the head that is returned the columns, the
    members' answers and then the coordinates. Rows are drawn in proportion to `weights_N` (a kernel keeps few).
    """
    kernel = fit_kernel(rows_NF, targets_NT, _generator(seed), weights_S=weights_N).kernel
    forest = grow_forest(rows_NF, targets_NT, _generator(seed), weights_S=weights_N)
    stack = FittedStack(table=table, kernel=kernel, forest=forest, logits=classification)
    identity_TT = torch.eye(targets_NT.shape[1], dtype=torch.float64) / ANSWER_SCALE
    kernel_TT = identity_TT / KERNEL_TEMPERATURE if classification else identity_TT
    columns_TF, coordinates_TP = linear.weight_TF[:, : table.width], linear.weight_TF[:, table.width :]
    weight_TF = torch.cat([columns_TF, kernel_TT, identity_TT, coordinates_TP], dim=1)
    return stack, LinearHead(weight_TF=weight_TF / 3, bias_T=linear.bias_T / 3)


def table_featuriser(featuriser: QuantileFeaturiser, support: LabelledSet) -> QuantileFeaturiser:
    """Regression reads plain standard scores: on bent columns a straight line is lost."""
    return featuriser if support.classes else replace(featuriser, standard=True)


def _tune_classification(rows_SF: Tensor, support: LabelledSet, seed: int) -> StackTuning:
    n_classes, labels_S = len(support.classes), support.labels_N
    targets_SC, _ = support_targets(support)
    regularisation = choose_regularisation(rows_SF.double(), support, TargetOnlyOptions(), seed)
    # A class of one row leaves nothing to learn it from: how its row is answered says nothing.
    judged_S = torch.bincount(labels_S, minlength=n_classes)[labels_S] > 1
    fit = fit_kernel(rows_SF, targets_SC, _generator(seed))
    judged_N = judged_S[fit.rows_N]
    kernel_NC, kernel_labels_N = fit.held_out_NT[judged_N], labels_S[fit.rows_N][judged_N]
    temperature = fit_temperature(kernel_NC, kernel_labels_N, prior=KERNEL_TEMPERATURE)
    if not judged_S.any():
        return StackTuning(
            regularisation=regularisation, kernel_temperature=temperature, weights=_weights(PRIOR_CLASSIFICATION)
        )
    linear_SC, forest_SC = torch.zeros(2, len(labels_S), n_classes, dtype=torch.float64)
    fold_S = deal_folds(labels_S, FOLDS, _generator(seed))
    for fold in fold_S.unique():
        train_S, held_S = fold_S != fold, fold_S == fold
        head = fit_logistic(rows_SF[train_S].double(), labels_S[train_S], n_classes, regularisation=regularisation)
        linear_SC[held_S] = head(rows_SF[held_S])
        forest = _grow(rows_SF[train_S], targets_SC[train_S], seed)
        forest_SC[held_S] = _forest_answers(forest, rows_SF[held_S], logits=True).double()
    losses = [
        _cross_entropy(linear_SC[judged_S], labels_S[judged_S]),
        _cross_entropy(kernel_NC / temperature, kernel_labels_N) if len(kernel_NC) else 0.0,
        _cross_entropy(forest_SC[judged_S], labels_S[judged_S]),
    ]
    evidence = [-EVIDENCE * int(judged_S.sum()) * loss for loss in losses]
    return StackTuning(
        regularisation=regularisation, kernel_temperature=temperature, weights=_weights(PRIOR_CLASSIFICATION, evidence)
    )


def _tune_regression(rows_SF: Tensor, support: LabelledSet, seed: int) -> StackTuning:
    targets_ST, _ = support_targets(support)
    ones_S = torch.ones(len(targets_ST))
    errors = {
        strength: _squared_error(fit.held_out_ST, targets_ST)
        for strength, fit in ridge_path(rows_SF, targets_ST, ones_S, RIDGE_GRID)
    }
    regularisation = min(errors, key=lambda strength: errors[strength])
    fit = fit_kernel(rows_SF, targets_ST, _generator(seed))
    forest_ST = torch.zeros_like(targets_ST)
    fold_S = deal_folds(torch.zeros(len(targets_ST)).long(), FOLDS, _generator(seed))
    for fold in fold_S.unique():
        forest = _grow(rows_SF[fold_S != fold], targets_ST[fold_S != fold], seed)
        forest_ST[fold_S == fold] = forest.answers(rows_SF[fold_S == fold]).double()
    found = (
        errors[regularisation],
        _squared_error(fit.held_out_NT, targets_ST[fit.rows_N]),
        _squared_error(forest_ST, targets_ST),
    )
    # The likelihood of normal errors under their own variance.
    log_likelihoods = [-len(targets_ST) / 2 * float(torch.tensor(max(error, 1e-9)).log()) for error in found]
    evidence = [EVIDENCE * value for value in log_likelihoods]
    return StackTuning(
        regularisation=regularisation, kernel_temperature=1.0, weights=_weights(PRIOR_REGRESSION, evidence)
    )


def _weights(prior: tuple[float, float, float], evidence: list[float] | None = None) -> tuple[float, float, float]:
    log_weights_3 = torch.tensor(prior, dtype=torch.float64).log()
    linear, kernel, forest = (log_weights_3 + torch.tensor(evidence or [0.0] * 3)).softmax(0).tolist()
    return linear, kernel, forest


def _grow(rows_SF: Tensor, targets_ST: Tensor, seed: int) -> Forest:
    return grow_forest(rows_SF, targets_ST, _generator(seed))


def _forest_answers(forest: Forest, rows_QF: Tensor, *, logits: bool) -> Tensor:
    answers_QT = forest.answers(rows_QF)
    return answers_QT.clamp_min(LEAST_SHARE).log() if logits else answers_QT


def _cross_entropy(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Mean, no row counting worse than a probability of `LEAST_SHARE`: one wild answer must not decide."""
    log_probs_N = logits_NC.log_softmax(1).gather(1, labels_N[:, None])
    return -float(log_probs_N.clamp_min(float(torch.tensor(LEAST_SHARE).log())).mean())


def _squared_error(answers_NT: Tensor, targets_NT: Tensor) -> float:
    return float((answers_NT - targets_NT).square().mean())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
