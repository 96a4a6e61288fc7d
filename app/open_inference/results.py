"""From predictions to the tensors of an answer, and to its bytes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from app.inference.answering import Answered
from app.inference.answers import Prediction
from app.open_inference import tensors
from app.open_inference.requests import BINARY, HEADER_LENGTH, refused, short
from app.open_inference.schemas import InferRequest, RequestOutput, TensorMetadata
from app.open_inference.signatures import outputs_of
from app.open_inference.tensors import Tensor
from learning.base_learner import BaseLearner


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One output tensor, and how it is to be sent."""

    metadata: TensorMetadata
    is_binary: bool


def wanted(learner: BaseLearner, request: InferRequest) -> list[Wanted]:
    """The outputs that the request chooses, in its order; all of the model's where it chooses none.

    Raises:
        InvalidInput: the model has no such output, or one is chosen twice.
    """
    known = {metadata.name: metadata for metadata in outputs_of(learner)}
    chosen = request.outputs or [RequestOutput(name=name) for name in known]
    found: dict[str, Wanted] = {}
    for place, output in enumerate(chosen):
        pointer = f"/body/outputs/{place}/name"
        if output.name not in known:
            message = f"The model gives no tensor '{short(output.name)}'."
            raise refused(pointer, "unknown_tensor", message, f"It gives: {', '.join(known)}.")
        if output.name in found:
            raise refused(pointer, "duplicate_tensor", f"The output '{output.name}' is there twice.", "Name it once.")
        own = output.parameters.binary_data
        is_binary = request.parameters.binary_data_output if own is None else own
        found[output.name] = Wanted(metadata=known[output.name], is_binary=is_binary)
    return list(found.values())


def tensor_of(metadata: TensorMetadata, learner: BaseLearner, predictions: list[Prediction]) -> Tensor:
    """One output for all predictions, none of which is an error."""
    name = metadata.name
    take: dict[str, Callable[[Any], list[Any]]] = {
        "probabilities": lambda told: [told[label] for label in learner.classes],
        "prediction_set": lambda told: [json.dumps(told, ensure_ascii=False)],
        "interval": list,
    }
    read = take.get(name, lambda told: [told])
    values = [value for prediction in predictions for value in read(prediction[name])]
    shape = (len(predictions), *metadata.shape[1:])
    return Tensor(name=name, datatype=metadata.datatype, shape=shape, values=values)


def response(request: InferRequest, chosen: list[Wanted], answered: Answered) -> Response:
    """The answer: JSON, and after it, in the same order, the tensors that are to be binary."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for each in chosen:
        tensor = tensor_of(each.metadata, answered.learner, answered.predictions)
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if each.is_binary:
            parts.append(tensors.to_binary(tensor))
            told["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            told["data"] = tensors.to_json(tensor)
        outputs.append(told)
    head: dict[str, Any] = {"model_name": answered.version.model, "model_version": str(answered.version.number)}
    head |= {} if request.id is None else {"id": request.id}
    written = json.dumps(head | {"outputs": outputs}, allow_nan=False).encode()
    if not parts:
        return Response(written, media_type="application/json")
    return Response(b"".join([written, *parts]), media_type=BINARY, headers={HEADER_LENGTH: str(len(written))})
