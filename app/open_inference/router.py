"""The Open Inference Protocol (v2) over HTTP, with its binary tensor data: the same models under the same keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.dependencies import Services, ServicesDep
from app.health import readyz
from app.inference.answering import answered
from app.inference.serving import Question
from app.models import service
from app.models.schemas import PathVersion
from app.models.served import Selector, ServedVersion
from app.open_inference import questions, results, signatures
from app.open_inference.requests import BINARY, HEADER_LENGTH, OPENAPI_BODY, InferCall, InferCallDep, refused
from app.open_inference.schemas import (
    IndexedModel,
    IndexRequest,
    InferResponse,
    LiveRead,
    ModelMetadata,
    ModelReadyRead,
    ReadyRead,
    ServerMetadata,
)
from app.schemas import PathName
from app.security import Principal, require
from learning.base_learner import BaseLearner

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

Caller = Annotated[Principal, Depends(require("predict"))]

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "model": InferResponse,
        "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
        "description": f"JSON; where an output is binary, {BINARY} with {HEADER_LENGTH}",
    }
}


@router.get("/health/live")
def live() -> LiveRead:
    """The process is alive."""
    return LiveRead(live=True)


@router.get("/health/ready")
def ready(request: Request) -> ReadyRead:
    """Whether this process can serve requests; 503 names the checks that say no, as /readyz does."""
    readyz(request)
    return ReadyRead(ready=True)


@router.get("")
def describe_server(request: Request, _caller: Caller) -> ServerMetadata:
    """What this server is. Its errors are problems with the protocol's `error` as one more member."""
    return ServerMetadata(name="metagraft", version=request.app.version, extensions=["binary_tensor_data"])


@router.post("/repository/index")
def index_repository(services: ServicesDep, caller: Caller, _body: IndexRequest | None = None) -> list[IndexedModel]:
    """The project's models, each with its newest version."""
    with services.database.session(read_only=True) as session:
        found = service.newest_numbers(session, caller.project_id)
    services.database.look_again()  # as in app/dependencies.py
    return [IndexedModel(name=name, version=str(number), state="READY", reason="") for name, number in found]


@router.get("/models/{name}", response_model_exclude_none=True)
def describe_model(name: PathName, services: ServicesDep, caller: Caller) -> ModelMetadata:
    """The tensors that the newest version takes and gives."""
    return _described(services, caller, name)


@router.get("/models/{name}/versions/{number}", response_model_exclude_none=True)
def describe_version(name: PathName, number: PathVersion, services: ServicesDep, caller: Caller) -> ModelMetadata:
    """The tensors that one version takes and gives."""
    return _described(services, caller, name, number=number)


@router.get("/models/{name}/ready")
def model_ready(name: PathName, services: ServicesDep, caller: Caller) -> ModelReadyRead:
    """Whether the newest version can be loaded; it is from now on."""
    return _ready(services, caller, name)


@router.get("/models/{name}/versions/{number}/ready")
def version_ready(name: PathName, number: PathVersion, services: ServicesDep, caller: Caller) -> ModelReadyRead:
    """Whether one version can be loaded; it is from now on."""
    return _ready(services, caller, name, number=number)


@router.post("/models/{name}/infer", responses=ANSWER, openapi_extra=OPENAPI_BODY)
async def infer(
    *, name: PathName, caller: Caller, call: InferCallDep, services: ServicesDep, request: Request
) -> Response:
    """Answers all inputs by the newest version or an alias, or refuses the call where one of them is bad."""
    alias = call.request.parameters.alias
    return await _answer(services, request, caller, name, call, Selector() if alias is None else Selector(alias=alias))


@router.post("/models/{name}/versions/{number}/infer", responses=ANSWER, openapi_extra=OPENAPI_BODY)
async def infer_with_version(
    *,
    name: PathName,
    number: PathVersion,
    caller: Caller,
    call: InferCallDep,
    services: ServicesDep,
    request: Request,
) -> Response:
    """The same, by one version."""
    if call.request.parameters.alias is not None:
        message = "The path names a version, so that no alias can choose one."
        raise refused("/body/parameters/alias", "ambiguous_version", message, "Leave one of them out.")
    return await _answer(services, request, caller, name, call, Selector(number=number))


async def _answer(
    services: Services, request: Request, caller: Principal, name: str, call: InferCall, selector: Selector
) -> Response:
    asked = call.request

    def ask(version: ServedVersion, learner: BaseLearner) -> Question:
        _check_named(call, version)
        results.wanted(learner, asked)  # what cannot be answered is not computed
        inputs = questions.inputs_for(learner, call)
        return Question(inputs=inputs, top_k=max(1, len(learner.classes)))

    found = await answered(services, request, caller.project_id, name, selector, ask)
    questions.refuse_bad(found.predictions, call.tensors)
    return results.response(asked, results.wanted(found.learner, asked), found)


def _check_named(call: InferCall, version: ServedVersion) -> None:
    asked = call.request
    named = (
        ("model_name", asked.model_name, version.model),
        ("model_version", asked.model_version, str(version.number)),
    )
    for field, given, answering in named:
        if given is not None and given != answering:
            message = f"The body names another {field} than '{answering}', which answers."
            raise refused(f"/body/{field}", "contradicting_name", message, "Leave it out.")


def _described(services: Services, caller: Principal, name: str, **selector: Any) -> ModelMetadata:
    with services.database.session(read_only=True) as session:
        model, version = service.resolve(session, caller.project_id, name, **selector)
        numbers = service.numbers(session, model)
    services.database.look_again()  # as in app/dependencies.py
    learner = services.inference.serving.models.get(version.artifact).learner
    return ModelMetadata(
        name=model.name,
        versions=[str(number) for number in numbers],
        platform=signatures.PLATFORM,
        inputs=signatures.inputs_of(learner),
        outputs=signatures.outputs_of(learner),
    )


def _ready(services: Services, caller: Principal, name: str, **selector: Any) -> ModelReadyRead:
    with services.database.session(read_only=True) as session:
        model, version = service.resolve(session, caller.project_id, name, **selector)
    services.inference.serving.models.get(version.artifact)
    return ModelReadyRead(name=model.name, ready=True)
