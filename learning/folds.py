"""Held-out answers of a candidate on the target's own rows, refitting everything in every fold."""

from collections.abc import Callable, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from learning.base_learner import Pipeline
from learning.candidates import Candidate, FittedCandidate
from learning.dealing import deal_folds
from learning.intervals import HeldOutHeads, cross_validated
from learning.statistics import RidgeStatistics
from learning.types import LabelledSet

#: Larger supports are scored on half as many folds: their estimates are precise enough.
MANY_ROWS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """`outputs_ST` of the rows while they were held out. `comparable_S`: the row's class kept a row in its fold.

    A one-shot class leaves nothing behind to learn it from, so its row says nothing about learning from the target.
    `majority_S`: whether the commonest class of the rows kept would have been right (classification). On balanced rows
    holding one out makes its class the rarest, so this, and not the majority's share, is what a useless model equals.
    `fold_S` and `pipelines`: which of the fitted pipelines, in the order of the distinct folds, missed the row.
    """

    outputs_ST: Tensor
    comparable_S: Tensor
    majority_S: Tensor
    fold_S: Tensor
    pipelines: tuple[Pipeline, ...]

    @property
    def n_folds(self) -> int:
        return len(self.pipelines)


def held_out(
    candidate: Candidate, support: LabelledSet, fold_S: Tensor, *, progress: Callable[[float], None]
) -> HeldOut:
    """Fits `candidate` once per fold of `fold_S` (S,) and answers the rows left out."""
    n_outputs = max(len(support.classes), 1)
    outputs_ST = torch.zeros(len(support), n_outputs, dtype=torch.float64)
    comparable_S, majority_S = torch.zeros(2, len(support), dtype=torch.bool)
    folds, pipelines = fold_S.unique().tolist(), []
    for done, fold in enumerate(folds):
        held = (fold_S == fold).nonzero()[:, 0]
        kept = (fold_S != fold).nonzero()[:, 0]
        train = support.select(kept)
        pipelines.append(candidate.fit(train).pipeline)
        outputs_ST[held] = pipelines[-1].outputs(support.inputs.select(held))
        comparable_S[held] = _kept_class(train, support.labels_N[held]) if support.classes else True
        if support.classes:
            majority_S[held] = support.labels_N[held] == torch.bincount(train.labels_N).argmax()
        progress((done + 1) / len(folds))
    return HeldOut(
        outputs_ST=outputs_ST,
        comparable_S=comparable_S,
        majority_S=majority_S,
        fold_S=fold_S,
        pipelines=tuple(pipelines),
    )


def held_out_heads(
    fitted: FittedCandidate, statistics: RidgeStatistics | None, answers: HeldOut, support: LabelledSet
) -> HeldOutHeads | None:
    """Of a regression: in closed form where there is one, else the folds' where all of them read one feature space."""
    if support.classes:
        return None
    in_closed_form = statistics.held_out_heads() if statistics is not None else None
    if in_closed_form is not None:
        return in_closed_form.stored()
    if any(not pipeline.reads_like(fitted.pipeline) for pipeline in answers.pipelines):
        return None
    errors_S = answers.outputs_ST[:, 0] - support.labels_N.double()
    return cross_validated([pipeline.head for pipeline in answers.pipelines], answers.fold_S, errors_S).stored()


def _kept_class(train: LabelledSet, labels_H: Tensor) -> Tensor:
    return torch.isin(labels_H, train.labels_N.unique())


def plan_folds(support: LabelledSet, max_folds: int, generator: torch.Generator) -> Tensor:
    """(S,) the fold of each row; at most `max_folds` folds.

    Classes lose their rows together: as many folds as the largest class has rows, or a divisor of that, so that a fold
    takes as many rows of every class of equal shots. Leaving single rows out would hold each against classes that kept
    one example more than its own, which at a few shots makes a model look less accurate and less sure than it is.
    One-shot supports and regressions are left out row by row.
    """
    if not support.classes:
        return _rows_in_folds(torch.zeros(len(support), dtype=torch.int64), max_folds, generator)
    shots = int(torch.bincount(support.labels_N).max())
    if shots == 1:
        return _rows_in_folds(support.labels_N, max_folds, generator)
    most = min(shots, _affordable(support, max_folds))
    even = [n_folds for n_folds in range(max(2, (most + 1) // 2), most + 1) if shots % n_folds == 0]
    return deal_folds(support.labels_N, max(even, default=most), generator)


def _rows_in_folds(strata_S: Tensor, max_folds: int, generator: torch.Generator) -> Tensor:
    if len(strata_S) <= max_folds:
        return torch.arange(len(strata_S))
    return deal_folds(strata_S, _affordable(strata_S, max_folds), generator)


def _affordable(rows: Sized, max_folds: int) -> int:
    return max_folds if len(rows) <= MANY_ROWS else max(2, max_folds // 2)
