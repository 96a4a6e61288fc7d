"""Reads the body of a predict call: JSON, or multipart with image files."""

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from app.dependencies import get_services
from app.errors import ErrorItem, InvalidInput, UnsupportedMedia
from app.inference.schemas import PredictFields, PredictRequest
from app.schemas import invalid_body, parsed
from app.settings import Settings

_FIELDS = ("top_k", "explain")
#: A larger body is parsed in a thread, so that other requests need not wait for it.
_SMALL_BODY = 64 * 2**10

OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": PredictRequest.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "top_k": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
                        "explain": {"type": "boolean", "default": False},
                    },
                }
            },
        },
    }
}


async def _predict_request(request: Request) -> PredictRequest:
    settings = get_services(request).settings
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        sent = await _from_files(request, settings)
    elif media == "application/json" or media.endswith("+json") or not media:
        body = await request.body()
        is_small = len(body) <= _SMALL_BODY
        sent = parsed(PredictRequest, body) if is_small else await run_in_threadpool(parsed, PredictRequest, body)
    else:
        raise UnsupportedMedia("Send application/json, or multipart/form-data with image files.")
    limit = settings.max_predict_inputs
    if len(sent.inputs) > limit:
        message = f"{len(sent.inputs)} inputs were sent, at most {limit} are taken in one call."
        hint = "Split them, or run a batch_predict job over a dataset."
        item = ErrorItem(pointer="/body/inputs", code="too_many_inputs", message=message, hint=hint)
        raise InvalidInput(message, code="too_many_inputs", errors=[item])
    return sent


async def _from_files(request: Request, settings: Settings) -> PredictRequest:
    limit = settings.max_predict_inputs
    async with request.form(max_files=limit, max_fields=limit + len(_FIELDS)) as form:
        fields = {name: _field(form, name) for name in form if name != "files"}
        files = [await _bytes(part, settings) for part in form.getlist("files")]
    try:
        checked = PredictFields.model_validate(fields)
    except ValidationError as error:
        raise invalid_body(error) from None
    if not files:
        hint = "Send each image as a part named 'files' with a file name."
        item = ErrorItem(pointer="/body/files", code="missing", message="There is no part named 'files'.", hint=hint)
        raise InvalidInput("There is no part named 'files'.", errors=[item])
    return PredictRequest.model_construct(inputs=files, top_k=checked.top_k, explain=checked.explain)


def _field(form: FormData, name: str) -> str:
    value = form[name]
    return value if isinstance(value, str) else ""


async def _bytes(part: UploadFile | str, settings: Settings) -> Any:
    """The file's bytes, one more than allowed at most; a part that is no file stays what it is and fails alone."""
    if isinstance(part, str):
        return part
    return await part.read(settings.max_image_bytes + 1)


PredictBody = Annotated[PredictRequest, Depends(_predict_request)]
