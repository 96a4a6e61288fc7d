"""The routes of models, their versions, aliases and feedback."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.orm import Session

from app import idempotency
from app.dependencies import ReadSessionDep, ServicesDep, SessionDep
from app.models import aliases, export, feedback, service
from app.models.schemas import (
    AliasName,
    AliasPut,
    AliasRead,
    FeedbackCreate,
    FeedbackRead,
    ModelPage,
    ModelRead,
    MovePage,
    MoveRead,
    PathVersion,
    VersionPage,
    VersionRead,
)
from app.paging import PageDep, page_by_id
from app.projects import quotas
from app.schemas import PathName
from app.security import Principal, require
from app.tables import AliasMove, Model, ModelAlias

router = APIRouter(prefix="/v1", tags=["models"])

Owner = Annotated[Principal, Depends(require("models"))]
Alias = Annotated[AliasName, Path()]
IfMatch = Annotated[str | None, Header(description="The ETag of the alias; needed to move one that exists")]


@router.get("/models")
def list_models(session: ReadSessionDep, owner: Owner, page: PageDep) -> ModelPage:
    models, token = page_by_id(session, service.owned(owner.project_id), Model.id, page)
    return ModelPage(items=service.describe(session, models), next_page_token=token)


@router.get("/models/{name}")
def get_model(name: PathName, session: ReadSessionDep, owner: Owner) -> ModelRead:
    return service.describe(session, [service.get(session, owner.project_id, name)])[0]


@router.delete("/models/{name}", status_code=204)
def delete_model(name: PathName, session: SessionDep, owner: Owner) -> None:
    """Deletes the model with all versions; refused while an alias other than `latest` or a job names it."""
    service.delete_model(session, owner.project_id, name)


@router.get("/models/{name}/versions")
def list_versions(name: PathName, session: ReadSessionDep, owner: Owner, page: PageDep) -> VersionPage:
    found, token = service.versions(session, service.get(session, owner.project_id, name), page)
    return VersionPage(items=[VersionRead.model_validate(row) for row in found], next_page_token=token)


@router.get("/models/{name}/versions/{number}")
def get_version(name: PathName, number: PathVersion, session: ReadSessionDep, owner: Owner) -> VersionRead:
    _, version = service.resolve(session, owner.project_id, name, number=number)
    return VersionRead.model_validate(version)


@router.delete("/models/{name}/versions/{number}", status_code=204)
def delete_version(name: PathName, number: PathVersion, session: SessionDep, owner: Owner) -> None:
    """Refused while an alias other than `latest` or a job names it; the number is never given again."""
    service.delete_version(session, owner.project_id, name, number)


@router.get(
    "/models/{name}/versions/{number}/export",
    response_class=Response,
    responses={
        200: {
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
            "description": "An ONNX model with a program that runs it, graft.safetensors, header.json, README.md",
        }
    },
)
def export_version(name: PathName, number: PathVersion, services: ServicesDep, owner: Owner) -> Response:
    """A zip that answers without the service: needs Python with numpy and ONNX Runtime."""
    # The session ends before the storage is read: a slow store must not hold a database connection.
    with services.database.session(read_only=True) as session:
        model, version = service.resolve(session, owner.project_id, name, number=number)
    artifact, exporter = services.storage.read(version.artifact), services.inference.exporter
    with exporter.turn():
        file = export.archive(model, version, artifact, exporter.files(version.artifact))
    disposition = f'attachment; filename="{model.name}-v{number}.zip"'
    headers = {"Content-Disposition": disposition, "Content-Length": str(file.tell())}
    return StreamingResponse(export.chunks(file), media_type="application/zip", headers=headers)


@router.get("/models/{name}/aliases/{alias}")
def get_alias(name: PathName, alias: Alias, session: ReadSessionDep, owner: Owner, response: Response) -> AliasRead:
    """The alias, and its ETag to move it with."""
    row = aliases.get(session, service.get(session, owner.project_id, name), alias)
    return _shown(session, row, response)


@router.put("/models/{name}/aliases/{alias}", responses={201: {"model": AliasRead}})
def put_alias(
    *,
    name: PathName,
    alias: Alias,
    body: AliasPut,
    session: SessionDep,
    owner: Owner,
    response: Response,
    if_match: IfMatch = None,
) -> AliasRead:
    """Creates the alias (201) or moves it (200), which takes its ETag in If-Match. Tells the version's warnings."""
    row, created = aliases.put(session, owner.project_id, name, alias, number=body.version, if_match=if_match)
    response.status_code = 201 if created else 200
    return _shown(session, row, response)


def _shown(session: Session, alias: ModelAlias, response: Response) -> AliasRead:
    response.headers["ETag"] = aliases.etag(alias)
    return AliasRead.model_validate(alias).model_copy(update={"warnings": aliases.warnings(session, alias)})


@router.delete("/models/{name}/aliases/{alias}", status_code=204)
def delete_alias(name: PathName, alias: Alias, session: SessionDep, owner: Owner, if_match: IfMatch = None) -> None:
    aliases.delete(session, owner.project_id, name, alias, if_match)


@router.get("/models/{name}/aliases/{alias}/history")
def get_history(name: PathName, alias: Alias, session: ReadSessionDep, owner: Owner, page: PageDep) -> MovePage:
    """Every move of the alias, newest first; a deleted alias keeps its history."""
    model = service.get(session, owner.project_id, name)
    found, token = page_by_id(session, aliases.moves(model, alias), AliasMove.id, page)
    if not found:
        aliases.get(session, model, alias)
    return MovePage(items=[MoveRead.model_validate(move) for move in found], next_page_token=token)


@router.post("/models/{name}/aliases/{alias}/rollback")
def rollback_alias(
    *,
    name: PathName,
    alias: Alias,
    session: SessionDep,
    owner: Owner,
    response: Response,
    if_match: IfMatch = None,
) -> AliasRead:
    """Moves the alias back to the version it named before."""
    row = aliases.rollback(session, owner.project_id, name, alias, if_match)
    return _shown(session, row, response)


@router.post("/models/{name}/feedback", status_code=201, response_model=FeedbackRead)
def post_feedback(
    *,
    name: PathName,
    body: FeedbackCreate,
    session: SessionDep,
    services: ServicesDep,
    owner: Owner,
    key: idempotency.KeyHeader = None,
) -> JSONResponse:
    """Keeps a labelled input for the next adaptation that says `include_feedback`."""
    # Checked before the writing transaction begins: loading a model must not hold SQLite's one write lock.
    with services.database.session(read_only=True) as reading:
        model, version = service.resolve(reading, owner.project_id, name)
    row = feedback.checked(services.inference, model, version, body)
    request = ["POST /v1/models/feedback", model.id, row.input, row.label]

    def create() -> idempotency.Answer:
        quotas.claim(session, services.settings, owner.project_id, rows=1)
        feedback.keep(session, owner.project_id, name, row)
        answer = FeedbackRead(id=row.id, model=name, label=row.label, created_at=row.created_at)
        return idempotency.Answer(201, answer.model_dump(mode="json"))

    return idempotency.once(session, owner.project_id, key, request, create).response()
