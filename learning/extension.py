"""More examples, or a class more, for an adapted base learner: a new learner, without the examples of the old one."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learning.base_learner import BaseLearner
from learning.calibration import fit_familiarity
from learning.errors import InvalidData
from learning.heads import LinearHead, one_hot
from learning.statistics import RidgeStatistics
from learning.types import Inputs


def extended(
    learner: BaseLearner, inputs: Inputs, labels: Sequence[str] | Sequence[float], rows: Sequence[int]
) -> BaseLearner:
    """A learner that has also seen `inputs`, of known classes or new ones (numbers, for a regression).

    Its head equals to 1e-5 the ridge head fitted on old and new examples together, with the featuriser, metric, source
    weights and regularisation of `learner`. `rows` are the places of the examples in their dataset, which `neighbours`
    will name. The intervals of a regression on its target alone are recomputed exactly; otherwise temperature, set
    threshold and interval width stay as they were measured.

    Raises:
        InvalidData: the learner keeps no statistics, or the examples do not fit it.
    """
    if learner.statistics is None:
        raise InvalidData(
            "this learner's head cannot be extended", hint="adapt again with all examples: only ridge heads can be"
        )
    if not len(inputs) or len(inputs) != len(labels) or len(inputs) != len(rows):
        raise InvalidData(f"{len(inputs)} examples, {len(labels)} labels and {len(rows)} rows")
    features_SF = learner.pipeline.featuriser.transform(inputs)
    statistics, classes, targets_ST = _with_labels(learner, labels)
    statistics = statistics.with_examples(learner.pipeline.embedded(features_SF), targets_ST)
    head = statistics.head()
    stored = LinearHead(weight_TF=head.weight_TF.float().double(), bias_T=head.bias_T.float().double())
    held_out = statistics.held_out_heads()
    reference_NF = torch.cat([learner.familiarity.reference_NF, features_SF.half().float()])
    return replace(
        learner,
        classes=classes,
        pipeline=replace(learner.pipeline, head=stored),
        statistics=statistics,
        held_out_heads=held_out.stored() if held_out is not None else None,
        familiarity=fit_familiarity(reference_NF),
        support_rows=(*learner.support_rows, *rows),
        support_labels=_all_labels(learner, labels),
    )


def _all_labels(learner: BaseLearner, labels: Sequence[str] | Sequence[float]) -> tuple[str, ...] | tuple[float, ...]:
    if learner.task == "regression":
        return tuple(float(label) for label in (*learner.support_labels, *labels))
    return tuple(str(label) for label in (*learner.support_labels, *labels))


def _with_labels(
    learner: BaseLearner, labels: Sequence[str] | Sequence[float]
) -> tuple[RidgeStatistics, tuple[str, ...], Tensor]:
    """The statistics with an output for every class, the classes in their order, and the new targets (S, T)."""
    statistics, classes = learner.statistics, list(learner.classes)
    assert statistics is not None  # noqa: S101 - checked by the caller
    if learner.task == "regression":
        return statistics, (), torch.tensor([[float(label)] for label in labels], dtype=torch.float64)
    for name in sorted({str(label) for label in labels} - set(classes)):
        place = bisect_left(classes, name)
        classes.insert(place, name)
        statistics = statistics.with_class(place)
    index_S = torch.tensor([classes.index(str(label)) for label in labels])
    return statistics, tuple(classes), one_hot(index_S, len(classes))
