"""The routes that answer: predict, and what there is to predict with."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import TypeAdapter

from app.dependencies import Services, ServicesDep
from app.errors import ErrorItem, InvalidInput, finite
from app.inference.requests import OPENAPI_BODY, PredictBody
from app.inference.schemas import (
    EncoderList,
    EncoderRead,
    PredictRequest,
    PredictResponse,
    StrategyList,
    StrategyRead,
)
from app.models.schemas import AliasName, PathVersion
from app.models.service import LATEST, resolve
from app.schemas import PathName
from app.security import Principal, require
from learning.config import STRATEGIES, MetaTrainOptions
from learning.encoders.registry import list_encoders

router = APIRouter(prefix="/v1", tags=["predict"])

Caller = Annotated[Principal, Depends(require("predict"))]
AnyKey = Annotated[Principal, Depends(require(None))]

ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": PredictResponse}}


@router.post("/models/{name}/predict", responses=ANSWER, openapi_extra=OPENAPI_BODY)
def predict(
    *,
    name: PathName,
    caller: Caller,
    body: PredictBody,
    services: ServicesDep,
    request: Request,
    alias: Annotated[AliasName, Query(description="The alias whose version answers")] = LATEST,
) -> Response:
    """Answers every input; a bad one has an `error` in its place and does not disturb the others."""
    return _answer(services, request, caller, name, body, alias=alias)


@router.post("/models/{name}/versions/{number}/predict", responses=ANSWER, openapi_extra=OPENAPI_BODY)
def predict_with_version(
    *,
    name: PathName,
    number: PathVersion,
    caller: Caller,
    body: PredictBody,
    services: ServicesDep,
    request: Request,
) -> Response:
    """The same, by one version."""
    return _answer(services, request, caller, name, body, number=number)


def _answer(
    services: Services, request: Request, caller: Caller, name: str, body: PredictRequest, **selector: Any
) -> Response:
    # The session ends before the inference begins: a slow encoder must not hold a database connection.
    with services.database.session(read_only=True) as session:
        model, version = resolve(session, caller.project_id, name, **selector)
    if model.modality != "image" and isinstance(body.inputs[0], bytes):
        message = f"Files are images, but the model '{name}' takes {model.modality}."
        item = ErrorItem(pointer="/body/files", code="wrong_modality", message=message, hint="Send JSON.")
        raise InvalidInput(message, code="wrong_modality", errors=[item])
    predictions = services.inference.predict(version.artifact, body.inputs, top_k=body.top_k, explain=body.explain)
    counter = request.app.state.metrics.predictions
    n_bad = sum("error" in prediction for prediction in predictions)
    counter.labels(model.modality, "answered").inc(len(predictions) - n_bad)
    counter.labels(model.modality, "refused").inc(n_bad)
    answer = {"model": model.name, "version": version.number, "predictions": predictions}
    # Written straight: checking our own answer field by field would cost more than a tabular prediction.
    return Response(json.dumps(finite(answer), allow_nan=False), media_type="application/json")


def _described(name: str, options: type[Any]) -> StrategyRead:
    schema = TypeAdapter(options).json_schema()
    return StrategyRead(name=name, description=(options.__doc__ or "").strip(), options=schema)


@router.get("/strategies")
def list_strategies(_caller: AnyKey) -> StrategyList:
    """What can be asked of an adaptation and of meta-training, with the JSON Schema of the options."""
    return StrategyList(
        strategies=[_described(name, options) for name, options in STRATEGIES.items()],
        meta_train=_described("meta_train", MetaTrainOptions),
    )


@router.get("/encoders")
def list_all_encoders(_caller: AnyKey) -> EncoderList:
    """The frozen encoders that adaptations build on."""
    return EncoderList(items=[EncoderRead.model_validate(info) for info in list_encoders()])
