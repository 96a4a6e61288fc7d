"""Whether the parts of a learner that was read from an artifact hold together, so that predicting cannot fail later."""

import math
from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from learning.base_learner import BaseLearner
from learning.config import Similarity
from learning.encoders.columns import Kind
from learning.encoders.fitted_columns import CategoricalColumn, NumericColumn
from learning.encoders.tabular import FittedQuantileFeaturiser
from learning.errors import InvalidArtifact
from learning.featurisers import FittedCentring
from learning.intervals import HeldOutHeads
from learning.meta import MetaLearner
from learning.parameters import TransferParameters, default_parameters
from learning.stacking import FittedStack
from learning.statistics import RidgeStatistics
from learning.types import Features, FittedFeaturiser, Inputs, Modality, Table, Task

_HALF, _SINGLE, _DOUBLE = torch.float16, torch.float32, torch.float64
#: Type and number of dimensions of every tensor, by its name.
_TENSORS = {
    "head.weight_TF": (_SINGLE, 2), "head.bias_T": (_SINGLE, 1),
    "featuriser.mean_F": (_SINGLE, 1), "featuriser.directions_KF": (_SINGLE, 2),
    "featuriser.knots": (_DOUBLE, 1), "featuriser.scores": (_DOUBLE, 1),
    "featuriser.fourier_weight": (_SINGLE, 2), "featuriser.fourier_phase": (_SINGLE, 1),
    "featuriser.kernel_rows": (_HALF, 2), "featuriser.kernel_length": (_SINGLE, 1),
    "featuriser.kernel_dual": (_SINGLE, 3), "featuriser.kernel_mean": (_SINGLE, 1),
    "featuriser.forest_feature": (torch.int32, 1), "featuriser.forest_threshold": (_SINGLE, 1),
    "featuriser.forest_left": (torch.int32, 1), "featuriser.forest_value": (_HALF, 2),
    "featuriser.forest_n_trees": (torch.int64, 0),
    "support.reference_NF": (_HALF, 2),
    "held_out.heads_KF": (_SINGLE, 2), "held_out.head_S": (torch.int32, 1), "held_out.errors_S": (_SINGLE, 1),
    "statistics.features_NF": (_SINGLE, 2), "statistics.targets_NT": (_SINGLE, 2),
    "statistics.weights_N": (_SINGLE, 1), "statistics.gram_K": (_SINGLE, 1), "statistics.moments_FT": (_SINGLE, 2),
    "statistics.labels_3": (_DOUBLE, 1), "statistics.settings_2": (_DOUBLE, 1),
}  # fmt: skip
#: Of the groups whose tensors have other names in every artifact, or the names of parameters.
_PARAMETERS, _GRAFT = {"embedding", "parameters"}, "graft"


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raises `InvalidArtifact` where a tensor has a name, a type or a number of dimensions that none is stored with."""
    for name, tensor in tensors.items():
        group = name.partition(".")[0]
        if group in _PARAMETERS:
            _require(tensor.dtype == _SINGLE, name)
        elif group == _GRAFT or group.startswith(f"source_{_GRAFT}_"):
            _require((tensor.dtype, tensor.dim()) == (_HALF, 1), name)
        else:
            _require((tensor.dtype, tensor.dim()) == _TENSORS.get(name), name)


def check_learner(learner: BaseLearner) -> None:
    """Raises `InvalidArtifact`, or whatever `learning.envelope.readable` turns into it."""
    _check_frame(learner)
    width = _check_featuriser(learner.pipeline.featuriser, learner.modality)
    n_outputs = len(learner.classes) or 1
    if learner.pipeline.parameters is not None:
        width += _check_metric(learner.pipeline.parameters, width)
    head = learner.pipeline.head
    _require(head.weight_TF.shape == (n_outputs, width) and head.bias_T.shape == (n_outputs,), "head")
    _check_classes(learner)
    _check_numbers(learner)
    _check_references(learner)
    if learner.held_out_heads is not None:
        _require(learner.task == "regression", "held-out heads")
        _check_held_out(learner.held_out_heads, width)
    if learner.statistics is not None:
        _check_statistics(learner.statistics, width, n_outputs)
    _answer_a_blank(learner)


def check_meta_learner(learner: MetaLearner) -> None:
    """Raises `InvalidArtifact`, or whatever `learning.envelope.readable` turns into it."""
    _check_frame(learner)
    _require(isinstance(learner.card, dict), "card")
    width = _check_featuriser(learner.featuriser, learner.modality)
    _check_metric(learner.parameters, width)


def _require(holds: bool, part: str) -> None:
    if not holds:
        raise InvalidArtifact(f"the artifact's {part} does not fit the rest of it")


def _check_frame(learner: BaseLearner | MetaLearner) -> None:
    similarity = learner.pipeline.similarity if isinstance(learner, BaseLearner) else learner.similarity
    _require(learner.modality in get_args(Modality), "modality")
    _require(learner.task in get_args(Task), "task")
    _require(similarity in get_args(Similarity), "similarity")
    _require(isinstance(learner.encoder, str) and isinstance(learner.encoder_revision, str), "encoder")
    _require(set(learner.columns.values()) <= set(get_args(Kind)), "columns")
    _require(not learner.columns or learner.modality == "tabular", "columns")


def _check_featuriser(featuriser: FittedFeaturiser, modality: Modality) -> int:
    """Its width."""
    _require(isinstance(featuriser, FittedCentring) == (modality != "tabular"), "featuriser")
    if isinstance(featuriser, FittedCentring):
        _require(featuriser.mean_F.dim() == 1 and len(featuriser.mean_F) > 0, "featuriser")
        _require(featuriser.directions_KF.shape[1:] == featuriser.mean_F.shape, "featuriser")
        _require(math.isfinite(featuriser.scale) and featuriser.scale > 0, "featuriser")
    table = featuriser.table if isinstance(featuriser, FittedStack) else featuriser
    if isinstance(table, FittedQuantileFeaturiser):
        _require(len(table.columns) > 0, "featuriser")
        for column in table.columns:
            _check_column(column)
    if isinstance(featuriser, FittedStack):
        _require(bool((featuriser.kernel.length_G > 0).all()), "kernel")
    return featuriser.width


def _check_column(column: NumericColumn | CategoricalColumn) -> None:
    if isinstance(column, CategoricalColumn):
        names = column.categories
        _require(all(isinstance(name, str) for name in names) and len(set(names)) == len(names), "categories")
        return
    numbers = (column.centre, column.scale, column.quantile_weight, column.limit)
    _require(all(map(math.isfinite, numbers)) and column.scale > 0 and column.limit > 0, "columns")
    _require(0 <= column.quantile_weight <= 1 and len(column.knots_K) > 0, "columns")
    _require(bool((np.diff(column.knots_K) > 0).all()), "knots")


def _check_metric(parameters: TransferParameters, width: int) -> int:
    """How many coordinates the metric adds to the features."""
    projection_PF = parameters.projection_PF
    usual = default_parameters(width, projection_PF).tensors()
    shapes = {name: tensor.shape for name, tensor in parameters.tensors().items()}
    _require(shapes == {name: tensor.shape for name, tensor in usual.items()}, "parameters")
    _require(projection_PF.dim() == 2 and projection_PF.shape[1] == width, "metric")
    _require(bool(parameters.log_metric_gain.exp().isfinite()), "metric")
    return len(projection_PF)


def _check_classes(learner: BaseLearner) -> None:
    classes = learner.classes
    _require(bool(classes) == (learner.task == "classification"), "task")
    _require(all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes), "classes")
    _require(isinstance(learner.strategy, str), "strategy")


def _check_numbers(learner: BaseLearner) -> None:
    familiarity = learner.familiarity
    _require(math.isfinite(learner.temperature) and learner.temperature > 0, "temperature")
    _require(0 <= learner.set_threshold <= 1 + 1e-6, "threshold")
    _require(0 < learner.coverage < 1, "coverage")
    _require(learner.interval_half_width >= 0, "interval")
    _require(math.isfinite(familiarity.typical) and familiarity.typical >= 0, "familiarity")
    _require(math.isfinite(familiarity.spread) and familiarity.spread > 0, "familiarity")


def _check_references(learner: BaseLearner) -> None:
    rows, labels = learner.support_rows, learner.support_labels
    shape = (len(rows), learner.pipeline.featuriser.width)
    _require(learner.familiarity.reference_NF.shape == shape and len(labels) == len(rows) > 0, "support")
    _require(all(type(row) is int and row >= 0 for row in rows), "support")
    if learner.classes:
        _require(set(labels) <= set(learner.classes), "support")
    else:
        _require(all(type(label) in {int, float} and math.isfinite(float(label)) for label in labels), "support")


def _check_held_out(heads: HeldOutHeads, width: int) -> None:
    _require(heads.heads_KF.dim() == 2 and heads.heads_KF.shape[1] == width + 1, "held-out heads")
    _require(heads.head_S.dim() == 1 and heads.head_S.shape == heads.errors_S.shape, "held-out heads")
    _require(len(heads.head_S) > 0 and bool((heads.errors_S >= 0).all()), "held-out heads")
    _require(int(heads.head_S.min()) >= 0 and int(heads.head_S.max()) < len(heads.heads_KF), "held-out heads")


def _check_statistics(statistics: RidgeStatistics, width: int, n_outputs: int) -> None:
    n_rows = len(statistics.features_NF)
    shapes = {
        "features_NF": (n_rows, width),
        "targets_NT": (n_rows, n_outputs),
        "weights_N": (n_rows,),
        "gram_K": (0,) if n_rows else ((width + 1) * (width + 2) // 2,),
        "moments_FT": (0, n_outputs) if n_rows else (width + 1, n_outputs),
        "labels_3": (3,),
    }
    for name, shape in shapes.items():
        _require(getattr(statistics, name).shape == shape, "statistics")
    _require(statistics.regularisation > 0 and math.isfinite(statistics.output_scale), "statistics")


def _answer_a_blank(learner: BaseLearner) -> None:
    """The learner has to answer one empty row in finite numbers."""
    with np.errstate(divide="raise", invalid="raise", over="raise"), torch.no_grad():
        answers = learner.predict(_blank(learner))
    for values in (answers.probs_QC, answers.values_Q, answers.ood_Q):
        _require(values is None or bool(torch.isfinite(values).all()), "head")


def _blank(learner: BaseLearner) -> Inputs:
    featuriser = learner.pipeline.featuriser
    if isinstance(featuriser, FittedCentring):
        return Features.only(torch.zeros(1, len(featuriser.mean_F)), featuriser.graft)
    table = featuriser.table if isinstance(featuriser, FittedStack) else featuriser
    assert isinstance(table, FittedQuantileFeaturiser)  # noqa: S101 - there is no other
    missing = np.array([None], dtype=object)
    numeric = {column.name for column in table.columns if isinstance(column, NumericColumn)}
    return Table(
        numeric={name: np.array([math.nan]) for name in numeric},
        categorical={column.name: missing for column in table.columns if column.name not in numeric},
    )
