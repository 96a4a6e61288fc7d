"""Who is asking, and what they may do.

A key is `mg_<keyid>_<secret>`; only the secret's hash is stored. While no key is configured (none was ever created, or
all were revoked) a service bound to loopback needs none. An expired key still counts as configured: letting one run
out must not open the service.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from app import idempotency
from app.db import utc_now
from app.dependencies import ReadSessionDep, ServicesDep, SessionDep
from app.errors import Conflict, Forbidden, NotFound, Unauthorized
from app.hosts import check_origin
from app.ids import new_id
from app.paging import PageDep, page_by_id
from app.schemas import Name, PathName
from app.tables import ApiKey

Scope = Literal["datasets", "jobs", "models", "predict", "admin"]
SCOPES: tuple[Scope, ...] = ("datasets", "jobs", "models", "predict", "admin")
DEFAULT_PROJECT = "prj_default"

_TOKEN = re.compile(r"mg_([0-9a-f]{32})_([A-Za-z0-9_-]{20,100})")
_NO_HASH = "0" * 64

router = APIRouter(prefix="/v1", tags=["keys"])
bearer = HTTPBearer(auto_error=False, description="A key of the form mg_<keyid>_<secret>")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who sends this request: everything it can see belongs to `project_id`. `key_id` is None on an open service."""

    project_id: str
    scopes: frozenset[str]
    key_id: str | None = None


def hash_secret(secret: str) -> str:
    """Secrets are 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def has_active_key(session: Session) -> bool:
    """Whether some key would be accepted now."""
    alive = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
    return bool(session.scalar(select(exists().where(ApiKey.revoked_at.is_(None), alive))))


def _needs_key(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(ApiKey.revoked_at.is_(None)))))


def create_key(
    session: Session, *, project_id: str, name: str, scopes: Iterable[str], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """The new key's row, and the one sight of the key itself."""
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        project_id=project_id,
        name=name,
        secret_hash=hash_secret(secret),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, f"mg_{key.id.removeprefix('key_')}_{secret}"


def _unauthorized(detail: str, challenge: str = "") -> Unauthorized:
    return Unauthorized(detail, headers={"WWW-Authenticate": f'Bearer realm="metagraft"{challenge}'})


def _verified(session: Session, token: str) -> ApiKey | None:
    """The key behind `token`; an unknown or malformed one costs the same look-up and comparison as a wrong secret."""
    match = _TOKEN.fullmatch(token)
    key_id, secret = match.groups() if match else ("", "")
    key = session.get(ApiKey, f"key_{key_id}")
    matches = hmac.compare_digest(hash_secret(secret), key.secret_hash if key else _NO_HASH)
    if key is None or not matches or key.revoked_at is not None:
        return None
    return None if key.expires_at is not None and key.expires_at <= utc_now() else key


def authenticate(session: Session, authorization: str | None, *, may_be_open: bool) -> Principal:
    """The principal behind an Authorization header; a credential that is given must be good even on an open service.

    Raises:
        Unauthorized: no key was given where one is needed, or it is unknown, revoked or expired.
    """
    if authorization is None:
        if may_be_open and not _needs_key(session):
            return Principal(project_id=DEFAULT_PROJECT, scopes=frozenset(SCOPES))
        raise _unauthorized("This service needs a key: send 'Authorization: Bearer mg_…'.")
    scheme, _, token = authorization.partition(" ")
    key = _verified(session, token.strip() if scheme.lower() == "bearer" else "")
    if key is None:
        raise _unauthorized("The key is unknown, revoked or expired.", ', error="invalid_token"')
    return Principal(project_id=key.project_id, scopes=frozenset(map(str, key.scopes)), key_id=key.id)


def require(scope: Scope | None) -> Callable[..., Principal]:
    """A dependency: the principal of the request, which must have `scope`; None is content with any key."""

    def principal(
        request: Request,
        services: ServicesDep,
        _documented: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
    ) -> Principal:
        # A session of its own, closed before the route opens one: a request never holds two connections.
        with services.database.session(read_only=True) as session:
            header = request.headers.get("authorization")
            found = authenticate(session, header, may_be_open=services.settings.is_loopback)
        if found.key_id is None:
            check_origin(request, services.settings)
        if scope is not None and scope not in found.scopes:
            raise Forbidden(f"This key lacks the scope '{scope}'.", code="missing_scope")
        return found

    return principal


Admin = Annotated[Principal, Depends(require("admin"))]


class KeyCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)]
    expires_at: AwareDatetime | None = None

    @field_validator("expires_at")
    @classmethod
    def _in_the_future(cls, value: datetime | None) -> datetime | None:
        # The last year is left out, because a time zone could push it beyond what a datetime can hold.
        if value is not None and (value.year >= 9999 or value <= utc_now()):
            raise ValueError("must lie in the future, before the year 9999")
        return value


class KeyRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyRead):
    key: str | None
    """Shown this once; null where a repeated Idempotency-Key asks again."""


class KeyPage(BaseModel):
    items: Sequence[KeyRead]
    next_page_token: str | None = None


def _own_key(session: Session, principal: Principal, key_id: str) -> ApiKey:
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == principal.project_id))
    if key is None:
        raise NotFound(f"There is no key '{key_id}'.")
    return key


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
    mine = select(ApiKey).where(ApiKey.project_id == principal.project_id)
    keys, token = page_by_id(session, mine, ApiKey.id, page)
    return KeyPage(items=[KeyRead.model_validate(key) for key in keys], next_page_token=token)


@router.post("/keys/{key_id}/rotate", status_code=201)
def rotate_key(key_id: PathName, session: SessionDep, principal: Admin) -> KeyCreated:
    """A second key with the same name, scopes and expiry; both live until the first is revoked."""
    old = _own_key(session, principal, key_id)
    if old.revoked_at is not None:
        raise Conflict("A revoked key cannot be rotated; create a new one.", code="key_revoked")
    if old.expires_at is not None and old.expires_at <= utc_now():
        raise Conflict("An expired key cannot be rotated; create a new one.", code="key_expired")
    return _created(
        *create_key(
            session,
            project_id=old.project_id,
            name=old.name,
            scopes=old.scopes,
            expires_at=old.expires_at,
        )
    )


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: PathName, session: SessionDep, principal: Admin) -> None:
    """Revokes the key at once and for good; doing so again changes nothing."""
    key = _own_key(session, principal, key_id)
    key.revoked_at = key.revoked_at or utc_now()
