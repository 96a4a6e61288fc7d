"""The dataset routes."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse

from app import idempotency
from app.datasets import examples, images, service
from app.datasets.schemas import DatasetPage, DatasetRead, ExamplePage, ExampleRead, ImagePreview, Modality
from app.datasets.uploads import UploadDep, openapi_body
from app.dependencies import ReadSessionDep, Services, ServicesDep, SessionDep
from app.errors import NotFound
from app.paging import PageDep
from app.schemas import PathName, Storable
from app.security import Principal, require
from app.tables import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

PrincipalDep = Annotated[Principal, Depends(require("datasets"))]
Filter = Annotated[Storable | None, Query(max_length=200)]
_MAX_EXAMPLES = {"image": 20}
"""Thumbnails are made while the client waits."""


@router.post(
    "",
    status_code=201,
    response_model=DatasetRead,
    openapi_extra=openapi_body(),
    responses={200: {"model": DatasetRead}},
)
def post_dataset(
    principal: PrincipalDep,
    upload: UploadDep,
    services: ServicesDep,
    session: SessionDep,
    key: idempotency.KeyHeader = None,
) -> JSONResponse:
    """Stores a dataset. The same content again answers 200 with the dataset that exists."""
    prepared = service.prepare(services, upload)
    request = ["POST /v1/datasets", prepared.ingested.content_hash, upload.form.model_dump(mode="json")]

    def create() -> idempotency.Answer:
        dataset, is_new = service.create(services, session, principal.project_id, prepared)
        body = DatasetRead.model_validate(dataset).model_dump(mode="json")
        return idempotency.Answer(201 if is_new else 200, body, {"Location": f"/v1/datasets/{dataset.id}"})

    return idempotency.once(session, principal.project_id, key, request, create).response()


@router.get("")
def list_datasets(
    *,
    principal: PrincipalDep,
    session: ReadSessionDep,
    page: PageDep,
    name: Filter = None,
    modality: Modality | None = None,
    domain: Filter = None,
) -> DatasetPage:
    datasets, token = service.list_page(
        session, principal.project_id, page, name=name, modality=modality, domain=domain
    )
    return DatasetPage(items=[DatasetRead.model_validate(dataset) for dataset in datasets], next_page_token=token)


@router.get("/{dataset_id}")
def get_dataset(dataset_id: PathName, principal: PrincipalDep, session: ReadSessionDep) -> DatasetRead:
    return DatasetRead.model_validate(service.get(session, principal.project_id, dataset_id))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: PathName, principal: PrincipalDep, services: ServicesDep, session: SessionDep) -> None:
    """409 while an unfinished job or a meta-learner names the dataset."""
    service.delete(services, session, principal.project_id, dataset_id)


@router.get("/{dataset_id}/examples")
def list_examples(
    *,
    dataset_id: PathName,
    principal: PrincipalDep,
    services: ServicesDep,
    page_size: Annotated[int, Query(ge=1, description="At most 100 (images: 20); more is coerced down")] = 20,
    page_token: Annotated[str | None, Query(pattern=r"^[0-9]{1,9}$")] = None,
) -> ExamplePage:
    """A look at the examples, in the order of the upload."""
    dataset = _found(services, principal, dataset_id)
    offset, limit = int(page_token or 0), min(page_size, _MAX_EXAMPLES.get(dataset.modality, 100))
    found = examples.preview(services.storage, dataset, offset=offset, limit=limit)
    following = offset + len(found)
    token = str(following) if found and following < dataset.n_examples else None
    return ExamplePage(items=[_read(example) for example in found], next_page_token=token)


@router.get(
    "/{dataset_id}/examples/{row}/image",
    response_class=Response,
    responses={200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_image(
    dataset_id: PathName,
    row: Annotated[int, PathParameter(ge=1, le=10**9)],
    principal: PrincipalDep,
    services: ServicesDep,
) -> Response:
    """The original bytes of an image."""
    dataset = _found(services, principal, dataset_id)
    found = examples.preview(services.storage, dataset, offset=row - 1, limit=1)
    if not found or not isinstance(found[0].input, bytes):
        raise NotFound(f"The dataset has no image in row {row}.", code="example_not_found")
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(found[0].input, media_type=images.media_type(found[0].input), headers=headers)


def _found(services: Services, principal: Principal, dataset_id: str) -> Dataset:
    # The session ends before the storage is read: a slow store must not hold a database connection.
    with services.database.session(read_only=True) as session:
        return service.get(session, principal.project_id, dataset_id)


def _read(example: examples.Example) -> ExampleRead:
    if isinstance(example.input, bytes):
        shown = ImagePreview(entry=example.entry or "", thumbnail=images.thumbnail(example.input))
        return ExampleRead(row=example.row, label=example.label, input=shown)
    return ExampleRead(row=example.row, label=example.label, input=example.input)
