"""Base learners as ONNX models: an encoder's features, or those of a table's columns, to answers.

Letters in shape suffixes besides those of `learning.types`: R read features.
"""

import onnx
import torch
from onnx import compose
from torch import Tensor

from learning.base_learner import Answers, BaseLearner
from learning.onnx.encoder_graph import FEATURES, EncoderGraph, filled
from learning.onnx.tracing import Axes, trace

_CLASSIFICATION = ("probabilities", "prediction_set")
_REGRESSION = ("value", "interval")
_ALWAYS = ("ood_score", "abstain")


def answers_graph(learner: BaseLearner) -> onnx.ModelProto:
    """From `features`, (Q, R) float32 as `FittedFeaturiser.read` gives them, to what `BaseLearner.predict` answers.

    Classification: `probabilities` (Q, C) and `prediction_set` (Q, C) bool. Regression: `value` (Q,) and `interval`
    (Q, 2). Always: `ood_score` (Q,) and `abstain` (Q,) bool.

    Raises:
        IncompatibleDomain: torch's exporter cannot write it.
    """
    names = (_CLASSIFICATION if learner.task == "classification" else _REGRESSION) + _ALWAYS
    outputs: Axes = {name: {0: "batch"} for name in names}
    featuriser = learner.pipeline.featuriser

    def answers(rows_QR: Tensor) -> tuple[Tensor, ...]:
        return _tensors(learner.answers_to(featuriser.completed(rows_QR)))

    rows_QR = torch.zeros(2, featuriser.read_width)
    return trace(answers, [rows_QR], {FEATURES: {0: "batch"}}, outputs, what="the model")


def _tensors(answers: Answers) -> tuple[Tensor, ...]:
    found = (
        answers.probs_QC,
        answers.sets_QC,
        answers.values_Q,
        answers.intervals_Q2,
        answers.ood_Q,
        answers.abstain_Q,
    )
    return tuple(tensor for tensor in found if tensor is not None)


def learner_model(learner: BaseLearner, encoder: EncoderGraph | None) -> onnx.ModelProto:
    """From what the encoder takes (None: a table's read features) to answers; weights and graft included.

    Raises:
        IncompatibleDomain: torch's exporter cannot write it, or it is too large for an ONNX file.
    """
    head = answers_graph(learner)
    if encoder is None:
        return head
    graph, weights = encoder.under(learner.graft)
    # Both name their nodes by what these do.
    head = compose.add_prefix(head, "answers.", rename_inputs=False, rename_outputs=False)
    return filled(compose.merge_models(graph, head, io_map=[(FEATURES, FEATURES)]), weights)
