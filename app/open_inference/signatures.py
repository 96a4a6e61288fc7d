"""The tensors that a model takes and gives."""

from typing import Any

from app.open_inference.schemas import TensorMetadata
from learning.base_learner import BaseLearner

#: The one input of a model that is no table.
SINGLE = {"text": "text", "image": "image"}
PLATFORM = "metagraft"


def inputs_of(learner: BaseLearner) -> list[TensorMetadata]:
    """One tensor of texts or images, or one for each column of a table."""
    if learner.modality != "tabular":
        return [_tensor(SINGLE[learner.modality], "BYTES")]
    return [_column(name, kind) for name, kind in learner.columns.items()]


def outputs_of(learner: BaseLearner) -> list[TensorMetadata]:
    if learner.task == "classification":
        classes = list(learner.classes)
        own = [
            _tensor("label", "BYTES"),
            _tensor("probability", "FP64"),
            _tensor("probabilities", "FP64", len(classes), classes=classes),
            _tensor("prediction_set", "BYTES", content="A JSON array of labels"),
        ]
    else:
        own = [_tensor("value", "FP64"), _tensor("interval", "FP64", 2)]
    return [*own, _tensor("ood_score", "FP64"), _tensor("abstain", "BOOL")]


def _tensor(name: str, datatype: str, *rest: int, **parameters: Any) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=datatype, shape=[-1, *rest], parameters=parameters or None)


def _column(name: str, kind: str) -> TensorMetadata:
    is_numeric = kind == "numeric"
    missing = "NaN, or null in JSON" if is_numeric else "an empty string"
    return _tensor(name, "FP64" if is_numeric else "BYTES", kind=kind, optional=True, missing=missing)
