"""The routes of keys. All of them want the scope `admin`, and see the keys of the caller's project alone."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from app import idempotency
from app.dependencies import ReadSessionDep, SessionDep
from app.keys import service
from app.keys.schemas import KeyCreate, KeyCreated, KeyPage, KeyRead
from app.paging import PageDep, page_by_id
from app.schemas import PathName
from app.security import Principal, create_key, require
from app.tables import ApiKey

router = APIRouter(prefix="/v1", tags=["keys"])

Admin = Annotated[Principal, Depends(require("admin"))]


def _created(key: ApiKey, token: str) -> KeyCreated:
    return KeyCreated(**KeyRead.model_validate(key).model_dump(), key=token)


@router.post("/keys", status_code=201, response_model=KeyCreated)
def post_key(
    body: KeyCreate, session: SessionDep, principal: Admin, idempotency_key: idempotency.KeyHeader = None
) -> JSONResponse:
    """A new key. Its secret is shown this once: even a repeated Idempotency-Key does not show it again."""

    def create() -> idempotency.Answer:
        made = create_key(
            session,
            project_id=principal.project_id,
            name=body.name,
            scopes=body.scopes,
            expires_at=body.expires_at,
        )
        return idempotency.Answer(201, _created(*made).model_dump(mode="json"))

    request = ["POST /v1/keys", body.model_dump(mode="json")]
    once = idempotency.once(session, principal.project_id, idempotency_key, request, create, secret=["key"])
    return once.response()


@router.get("/keys")
def list_keys(session: ReadSessionDep, principal: Admin, page: PageDep) -> KeyPage:
    keys, token = page_by_id(session, service.owned(principal.project_id), ApiKey.id, page)
    return KeyPage(items=[KeyRead.model_validate(key) for key in keys], next_page_token=token)


@router.post("/keys/{key_id}/rotate", status_code=201, response_model=KeyCreated)
def rotate_key(
    key_id: PathName, session: SessionDep, principal: Admin, idempotency_key: idempotency.KeyHeader = None
) -> JSONResponse:
    """A second key with the same name, scopes and expiry; both live until the first is revoked."""

    def create() -> idempotency.Answer:
        made = service.rotate(session, service.get(session, principal.project_id, key_id))
        return idempotency.Answer(201, _created(*made).model_dump(mode="json"))

    request = ["POST /v1/keys/rotate", key_id]
    once = idempotency.once(session, principal.project_id, idempotency_key, request, create, secret=["key"])
    return once.response()


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: PathName, session: SessionDep, principal: Admin) -> None:
    """Revokes the key at once and for good; doing so again changes nothing."""
    service.revoke(service.get(session, principal.project_id, key_id))
