"""From the tensors of a call to the inputs of a model."""

import math
import re
from collections.abc import Iterable
from typing import Any

from app.errors import ErrorItem, InvalidInput
from app.inference.answers import Prediction
from app.open_inference.requests import InferCall, refused, short
from app.open_inference.signatures import inputs_of
from app.open_inference.tensors import Tensor
from learning.base_learner import BaseLearner

#: No image file is made of these alone: each has a zero or a byte beyond ASCII in it.
_BASE64 = re.compile(rb"(data:[^,]{0,180},)?[A-Za-z0-9+/=\s]+")
_NAMED = 10


def inputs_for(learner: BaseLearner, call: InferCall) -> list[Any]:
    """What the inference engine takes: strings, image bytes or base64, or rows; one for each input of the call.

    Raises:
        InvalidInput: a tensor is not of the model, is missing, or holds what no input of this model can be.
    """
    _check_names(learner, call.tensors)
    if learner.modality == "tabular":
        columns = {tensor.name: _cells(place, tensor) for place, tensor in enumerate(call.tensors)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tensor,) = call.tensors
    if tensor.datatype != "BYTES":
        message = f"The tensor '{tensor.name}' must be of the datatype BYTES."
        raise refused("/body/inputs/0/datatype", "wrong_datatype", message)
    if learner.modality == "text":
        return _texts(0, tensor)
    return [_image(value) for value in tensor.values]


def refuse_bad(predictions: list[Prediction], tensors: list[Tensor]) -> None:
    """The protocol has no place for the error of one input, so that one bad input refuses the call.

    Raises:
        InvalidInput: with one entry for every bad input.
    """
    items = [
        _item(prediction["error"], position, tensors)
        for position, prediction in enumerate(predictions)
        if "error" in prediction
    ]
    _refuse(items)


def _check_names(learner: BaseLearner, tensors: list[Tensor]) -> None:
    known = [tensor.name for tensor in inputs_of(learner)]
    told = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
    allowed = set(known)
    for place, tensor in enumerate(tensors):
        if tensor.name not in allowed:
            message = f"The model takes no tensor '{short(tensor.name)}'."
            raise refused(f"/body/inputs/{place}/name", "unknown_tensor", message, f"It takes: {told}.")


def _cells(place: int, tensor: Tensor) -> list[Any]:
    """One column of a table, with None where a value is missing."""
    if tensor.datatype == "BYTES":
        return [text or None for text in _texts(place, tensor)]
    if not tensor.datatype.startswith("FP"):
        return tensor.values
    _refuse(
        _element(place, tensor, position, "non_finite", "the number is not finite", "send NaN where it is missing")
        for position, value in enumerate(tensor.values)
        if math.isinf(value)
    )
    return [None if math.isnan(value) else value for value in tensor.values]


def _texts(place: int, tensor: Tensor) -> list[str]:
    found: list[str] = []
    wrong: list[ErrorItem] = []
    for position, value in enumerate(tensor.values):
        try:
            found.append(value if isinstance(value, str) else value.decode())
        except UnicodeDecodeError:
            wrong.append(_element(place, tensor, position, "invalid_text", "the text is not UTF-8", "send UTF-8"))
    _refuse(wrong)
    return found


def _image(value: str | bytes) -> str | bytes:
    """A file as it is; what is base64, or a data URL, as a string."""
    if isinstance(value, bytes) and _BASE64.fullmatch(value):
        return value.decode("ascii")
    return value


def _item(error: dict[str, Any], position: int, tensors: list[Tensor]) -> ErrorItem:
    """The engine's error of one input, with the tensor that it is about: a row's error begins with its column."""
    message = str(error["message"])
    about = [place for place, tensor in enumerate(tensors) if message.startswith(f"column '{tensor.name}':")]
    place = 0 if len(tensors) == 1 else next(iter(about), None)
    if place is None:
        told = f"[{position}]: {message}"
        return ErrorItem(pointer="/body/inputs", code=error["code"], message=told, hint=error["hint"])
    return _element(place, tensors[place], position, error["code"], message, error["hint"])


def _element(place: int, tensor: Tensor, position: int, code: str, message: str, hint: str | None) -> ErrorItem:
    told = f"{tensor.name}[{position}]: {message}"
    return ErrorItem(pointer=f"/body/inputs/{place}/data/{position}", code=code, message=told, hint=hint)


def _refuse(wrong: Iterable[ErrorItem]) -> None:
    items = list(wrong)
    if items:
        raise InvalidInput(f"{len(items)} bad input(s): {items[0].message}", code=items[0].code, errors=items)
