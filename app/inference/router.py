"""The routes that answer."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic_core import to_json

from app.dependencies import get_services
from app.direct import DirectRoute
from app.errors import ErrorItem, InvalidInput
from app.inference.answering import answered
from app.inference.requests import OPENAPI_BODY, PredictBody
from app.inference.schemas import PredictRequest, PredictResponse
from app.inference.serving import Question
from app.models.schemas import AliasName, PathVersion
from app.models.served import Selector, ServedVersion
from app.models.service import LATEST
from app.schemas import PathName
from app.security import Principal, require
from learning.base_learner import BaseLearner

router = APIRouter(prefix="/v1", tags=["predict"], route_class=DirectRoute)

Caller = Annotated[Principal, Depends(require("predict"))]

ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": PredictResponse}}


@router.post("/models/{name}/predict", responses=ANSWER, openapi_extra=OPENAPI_BODY)
async def predict(
    *,
    name: PathName,
    caller: Caller,
    body: PredictBody,
    request: Request,
    alias: Annotated[AliasName, Query(description="The alias whose version answers")] = LATEST,
) -> Response:
    """Answers every input; a bad one has an `error` in its place and does not disturb the others."""
    return await _answer(request, caller, name, body, Selector(alias=alias))


@router.post("/models/{name}/versions/{number}/predict", responses=ANSWER, openapi_extra=OPENAPI_BODY)
async def predict_with_version(
    *,
    name: PathName,
    number: PathVersion,
    caller: Caller,
    body: PredictBody,
    request: Request,
) -> Response:
    """The same, by one version."""
    return await _answer(request, caller, name, body, Selector(number=number))


async def _answer(request: Request, caller: Caller, name: str, body: PredictRequest, selector: Selector) -> Response:
    def ask(version: ServedVersion, _learner: BaseLearner) -> Question:
        if version.modality != "image" and isinstance(body.inputs[0], bytes):
            raise _wrong_modality(version)
        return Question(inputs=body.inputs, top_k=body.top_k, explain=body.explain)

    found = await answered(get_services(request), request, caller.project_id, name, selector, ask)
    answer = {"model": found.version.model, "version": found.version.number, "predictions": found.predictions}
    # Written straight: checking our own answer field by field would cost more than a tabular prediction.
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")


def _wrong_modality(version: ServedVersion) -> InvalidInput:
    message = f"Files are images, but the model '{version.model}' takes {version.modality}."
    item = ErrorItem(pointer="/body/files", code="wrong_modality", message=message, hint="Send JSON.")
    return InvalidInput(message, code="wrong_modality", errors=[item])
