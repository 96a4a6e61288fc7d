"""Reads the body of an infer call: a JSON object, and after it whatever tensors are sent in binary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from pydantic import BaseModel

from app.dependencies import ServicesDep
from app.errors import ErrorItem, InvalidInput, UnsupportedMedia
from app.open_inference import tensors
from app.open_inference.schemas import InferRequest, RequestInput
from app.open_inference.tensors import BadTensor, Tensor
from app.schemas import parsed

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

MAX_TOLD = 200

#: What would change the answer, and cannot be done here.
_UNSUPPORTED = frozenset({
    "classification", "sequence_id", "sequence_start", "sequence_end", "shared_memory_region",
    "shared_memory_byte_size", "shared_memory_offset",
})  # fmt: skip

HeaderLength = Annotated[
    str | None,
    Header(
        alias=HEADER_LENGTH,
        pattern=r"^[0-9]{1,10}$",
        description="Bytes of the JSON object, where tensors follow it in binary",
    ),
]


@dataclass(frozen=True, kw_only=True)
class InferCall:
    """`tensors`: the request's inputs in their order, all of as many values."""

    request: InferRequest
    tensors: list[Tensor]


def refused(pointer: str, code: str, message: str, hint: str | None = None) -> InvalidInput:
    """A call with one thing wrong in it."""
    item = ErrorItem(pointer=pointer, code=code, message=message, hint=hint)
    return InvalidInput(message, code=code, errors=[item])


def short(name: str) -> str:
    """A name that a client chose, for a message: it may be as long as the body."""
    return name if len(name) <= MAX_TOLD else f"{name[:MAX_TOLD]}…"


async def _body(request: Request) -> bytes:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in {"", "application/json", BINARY} and not media.endswith("+json"):
        raise UnsupportedMedia(f"Send application/json, or {BINARY} where tensors follow in binary.")
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMedia("Send the body as it is: it may not be compressed.")
    if len(request.headers.getlist(HEADER_LENGTH)) > 1:
        raise refused(f"/header/{HEADER_LENGTH}", "header_length", f"Send one {HEADER_LENGTH}.")
    return await request.body()


def _infer_call(
    body: Annotated[bytes, Depends(_body)], services: ServicesDep, header_length: HeaderLength = None
) -> InferCall:
    split = len(body) if header_length is None else int(header_length)
    if split > len(body):
        message = f"{HEADER_LENGTH} is {split}, but the body has {len(body)} bytes."
        raise refused(f"/header/{HEADER_LENGTH}", "header_length", message, "Send the length of the JSON object.")
    request = parsed(InferRequest, body[:split])
    _check_supported(request)
    _check_shapes(request.inputs, services.settings.max_predict_inputs)
    binary = None if header_length is None else memoryview(body)[split:]
    return InferCall(request=request, tensors=_tensors(request.inputs, binary))


#: A plain function, so that parsing runs beside the event loop and not in it.
InferCallDep = Annotated[InferCall, Depends(_infer_call)]


def _check_supported(request: InferRequest) -> None:
    described: list[tuple[str, BaseModel]] = [("/body", request.parameters)]
    described += [(f"/body/inputs/{place}", each.parameters) for place, each in enumerate(request.inputs)]
    described += [(f"/body/outputs/{place}", each.parameters) for place, each in enumerate(request.outputs)]
    for pointer, parameters in described:
        for name in sorted(_UNSUPPORTED & set(parameters.model_extra or {})):
            message = f"The parameter '{name}' is of an extension that this service does not have."
            raise refused(f"{pointer}/parameters/{name}", "unsupported_parameter", message, "Leave it out.")


def _check_shapes(inputs: Sequence[RequestInput], limit: int) -> None:
    """Every tensor has one element for each input of the call."""
    first = inputs[0]
    for place, each in enumerate(inputs):
        pointer, shape, name = f"/body/inputs/{place}/shape", each.shape, short(each.name)
        if len(shape) not in {1, 2} or shape[1:] not in ([], [1]) or shape[0] < 1:
            message = f"The tensor '{name}' must have the shape [N] or [N, 1] with N of at least 1."
            raise refused(pointer, "invalid_shape", message, "N is the number of inputs of this call.")
        if shape[0] > limit:
            message = f"{shape[0]} inputs were sent, at most {limit} are taken in one call."
            raise refused(pointer, "too_many_inputs", message, "Split them, or run a batch_predict job over a dataset.")
        if shape[0] != first.shape[0]:
            message = f"The tensor '{name}' has {shape[0]} elements, '{short(first.name)}' has {first.shape[0]}."
            raise refused(pointer, "shape_mismatch", message, "All tensors of a call have the same N.")


def _tensors(inputs: Sequence[RequestInput], binary: memoryview | None) -> list[Tensor]:
    """The tensors; `binary` holds, one after the other, those without `data`."""
    found: list[Tensor] = []
    offset, names = 0, set()
    for place, each in enumerate(inputs):
        pointer, size = f"/body/inputs/{place}", each.parameters.binary_data_size
        if each.name in names:
            message = f"The tensor '{short(each.name)}' is there twice."
            raise refused(f"{pointer}/name", "duplicate_tensor", message, "Send one.")
        names.add(each.name)
        part = None if size is None else _part(each, pointer, binary, offset)
        offset += size or 0
        values = _values(each, pointer, part)
        found.append(Tensor(name=each.name, datatype=each.datatype, shape=tuple(each.shape), values=values))
    if binary is not None and offset != len(binary):
        message = f"{len(binary)} bytes follow the JSON object, but its tensors have {offset}."
        raise refused("/body", "size_mismatch", message, "Give each binary tensor its binary_data_size.")
    return found


def _part(sent: RequestInput, pointer: str, binary: memoryview | None, offset: int) -> memoryview:
    size, name = sent.parameters.binary_data_size or 0, short(sent.name)
    if sent.data is not None:
        message = f"The tensor '{name}' has both data and a binary_data_size."
        raise refused(pointer, "ambiguous_data", message, "Send one of them.")
    if binary is None:
        message = f"The tensor '{name}' has a binary_data_size, but the request no {HEADER_LENGTH}."
        raise refused(f"/header/{HEADER_LENGTH}", "missing", message, "Send the length of the JSON object.")
    if offset + size > len(binary):
        message = f"The body ends before the {size} bytes of the tensor '{name}'."
        raise refused(f"{pointer}/parameters/binary_data_size", "size_mismatch", message, "Send all of its bytes.")
    return binary[offset : offset + size]


def _values(sent: RequestInput, pointer: str, part: memoryview | None) -> list[Any]:
    try:
        if part is not None:
            return tensors.from_binary(sent.datatype, sent.shape, part)
        return tensors.from_json(sent.datatype, sent.shape, sent.data)
    except BadTensor as error:
        element = "" if error.position is None else f"[{error.position}]"
        where = "" if error.position is None else f"/{error.position}"
        raise refused(
            f"{pointer}/data{where}", error.code, f"{short(sent.name)}{element}: {error}.", error.hint
        ) from None


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with every definition in the place of its reference, which leads nowhere outside of it."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items() if key != "$defs"}


def _openapi_body() -> dict[str, Any]:
    schema = InferRequest.model_json_schema()
    binary = {"type": "string", "format": "binary", "description": f"The JSON object, of {HEADER_LENGTH}, then tensors"}
    content = {
        "application/json": {"schema": _inlined(schema, schema.get("$defs", {}))},
        BINARY: {"schema": binary},
    }
    return {"requestBody": {"required": True, "content": content}}


OPENAPI_BODY = _openapi_body()
