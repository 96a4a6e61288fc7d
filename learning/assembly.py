"""From a fitted candidate to the base learner that is stored: calibrated, in stored precision, refused if useless."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learning.base_learner import BaseLearner, Pipeline
from learning.calibration import fit_familiarity, set_threshold
from learning.candidates import FittedCandidate
from learning.errors import NonFiniteModel, UselessModel
from learning.folds import HeldOut, held_out_heads
from learning.heads import LinearHead
from learning.intervals import interpolated_quantile
from learning.parameters import TransferParameters
from learning.sources import stratified_subsample
from learning.statistics import ridge_statistics
from learning.types import LabelledSet, Modality

#: Support rows kept in the artifact as evidence and as the reference of familiarity.
MAX_REFERENCE_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A candidate's held-out answers on the target, and its temperature fitted on them."""

    held_out: HeldOut
    temperature: float
    useful_S: Tensor
    """Rows whose held-out answer means something: comparable ones, and all rows where sources know the classes."""


def assemble(
    fitted: FittedCandidate, scored: Scored, support: LabelledSet, order_S: Tensor, coverage: float, *,
    modality: Modality, strategy: str, encoder: str, encoder_revision: str, columns: dict[str, str],
) -> BaseLearner:  # fmt: skip
    """The calibrated base learner, its classes in alphabetical order and its numbers in stored precision."""
    useful_S = scored.useful_S
    outputs_ST, labels_S = scored.held_out.outputs_ST[useful_S], support.labels_N[useful_S]
    threshold, half_width = 0.0, math.inf
    if support.classes:
        threshold = set_threshold((outputs_ST / scored.temperature).softmax(1), labels_S, coverage)
    else:
        half_width = float(interpolated_quantile((outputs_ST[:, 0] - labels_S.double()).abs(), coverage))
    kept_R = stratified_subsample(
        support.labels_N if support.classes else torch.zeros(len(support)).long(),
        MAX_REFERENCE_ROWS, torch.Generator().manual_seed(0),
    )  # fmt: skip
    reference_RF = fitted.pipeline.featuriser.transform(support.inputs.select(kept_R)).half().float()
    labels = support.labels_N[kept_R].tolist()
    order = sorted(range(len(support.classes)), key=lambda c: support.classes[c])
    statistics = ridge_statistics(fitted.problem, regression=not support.classes) if fitted.problem else None
    return BaseLearner(
        modality=modality,
        task=support.task,
        strategy=strategy,
        encoder=encoder,
        encoder_revision=encoder_revision,
        columns=columns,
        classes=tuple(support.classes[c] for c in order),
        pipeline=_stored_precision(fitted.pipeline, order),
        temperature=scored.temperature,
        set_threshold=threshold,
        coverage=coverage,
        interval_half_width=half_width,
        held_out_heads=held_out_heads(fitted, statistics, scored.held_out, support),
        statistics=statistics.reordered(order) if statistics and order else statistics,
        familiarity=fit_familiarity(reference_RF),
        support_rows=tuple(order_S[kept_R].tolist()),
        support_labels=tuple(support.classes[y] for y in labels) if support.classes else tuple(labels),
    )


def _stored_precision(pipeline: Pipeline, order: list[int]) -> Pipeline:
    """The pipeline as an artifact will hold it (float32), so that saving and loading changes no answer."""
    index = torch.tensor(order) if order else torch.arange(pipeline.head.bias_T.shape[0])
    head = LinearHead(
        weight_TF=pipeline.head.weight_TF[index].float().double(), bias_T=pipeline.head.bias_T[index].float().double()
    )
    parameters = pipeline.parameters
    if parameters is not None:
        parameters = _embedding_only(parameters)
    return replace(pipeline, head=head, parameters=parameters)


def _embedding_only(parameters: TransferParameters) -> TransferParameters | None:
    """What predicting needs of the learned parameters; nothing where no metric was learned."""
    return parameters.to(torch.float32).to(torch.float64) if len(parameters.projection_PF) else None


def refuse_useless(learner: BaseLearner, scored: Scored, warnings: Sequence[Mapping[str, Any]]) -> None:
    """Raises `NonFiniteModel` or `UselessModel` where the learner must not be published."""
    held_out_ST = scored.held_out.outputs_ST[scored.useful_S]
    if not learner.is_finite or not bool(torch.isfinite(held_out_ST).all()):
        raise NonFiniteModel("the fitted model is not finite", hint="check the inputs for extreme values")
    for warning in warnings:
        if warning["code"] == "worse_than_majority":
            raise UselessModel(
                str(warning["message"]), hint="check the labels, add examples, or use sources of a related domain"
            )
