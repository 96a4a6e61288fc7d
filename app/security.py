"""Who is asking, and what they may do.

A key is `mg_<keyid>_<secret>`; only the secret's hash is stored. While no key is configured (none was ever created, or
all were revoked) a service bound to loopback needs none. An expired key still counts as configured: letting one run
out must not open the service.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fastapi import Request
from fastapi.security import HTTPBearer
from sqlalchemy import exists, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import rate_limit
from app.db import utc_now
from app.dependencies import Services
from app.errors import Forbidden, Unauthorized
from app.hosts import check_origin
from app.ids import new_id
from app.loopback import is_beyond_loopback
from app.settings import Settings
from app.tables import ApiKey

Scope = Literal["datasets", "jobs", "models", "predict", "admin"]
SCOPES: tuple[Scope, ...] = ("datasets", "jobs", "models", "predict", "admin")
DEFAULT_PROJECT = "prj_default"

_TOKEN = re.compile(r"mg_([0-9a-f]{32})_([A-Za-z0-9_-]{20,100})")
_NO_HASH = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who sends this request: everything it can see belongs to `project_id`. `key_id` is None on an open service."""

    project_id: str
    scopes: frozenset[str]
    key_id: str | None = None
    expires_at: datetime | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= utc_now()


#: Whoever knows METAGRAFT_METRICS_TOKEN: sees no project's data.
_METRICS_READER = Principal(project_id="", scopes=frozenset())


def hash_secret(secret: str) -> str:
    """Secrets are 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def has_active_key(session: Session) -> bool:
    """Whether some key would be accepted now."""
    alive = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now())
    return bool(session.scalar(select(exists().where(ApiKey.revoked_at.is_(None), alive))))


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


def authenticate(session: Session, authorization: str | None, *, may_be_open: bool) -> Principal:
    """The principal behind an Authorization header; a credential that is given must be good even on an open service.

    Raises:
        Unauthorized: no key was given where one is needed, or it is unknown, revoked or expired.
    """
    if authorization is None:
        if may_be_open and not _needs_key(session):
            return Principal(project_id=DEFAULT_PROJECT, scopes=frozenset(SCOPES))
        raise _unauthorized("This service needs a key: send 'Authorization: Bearer mg_…'.")
    key = _verified(session, _bearer_token(authorization))
    if key is None:
        raise _unauthorized("The key is unknown, revoked or expired.", ', error="invalid_token"')
    return Principal(
        project_id=key.project_id, scopes=frozenset(map(str, key.scopes)), key_id=key.id, expires_at=key.expires_at
    )


class Requirement(HTTPBearer):
    """A dependency that gives the request's principal, which must have `scope`; None is content with any key.

    `or_metrics_token` is for /metrics: METAGRAFT_METRICS_TOKEN is let in as well, and while the database is away
    whoever was let in without a key before. It is the description's security scheme itself, and asks for nothing but
    the request: each dependency costs every request some of its time.
    """

    def __init__(self, scope: Scope | None, *, or_metrics_token: bool = False) -> None:
        super().__init__(
            scheme_name="HTTPBearer", description="A key of the form mg_<keyid>_<secret>", auto_error=False
        )
        self.scope = scope
        self.or_metrics_token = or_metrics_token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirement) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Scope | None, bool]:
        return self.scope, self.or_metrics_token

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]
        services: Services = request.app.state.services
        if self.or_metrics_token and _has_metrics_token(request, services.settings):
            return _METRICS_READER
        try:
            found = await _principal(request, services)
        except SQLAlchemyError:
            if self.or_metrics_token and _was_open(request, services.settings):
                return _METRICS_READER
            raise
        if self.scope is not None and self.scope not in found.scopes:
            raise Forbidden(f"This key lacks the scope '{self.scope}'.", code="missing_scope")
        return found


def require(scope: Scope | None, *, or_metrics_token: bool = False) -> Requirement:
    """What a route depends on; a route without it is open to everybody."""
    return Requirement(scope, or_metrics_token=or_metrics_token)


async def _principal(request: Request, services: Services) -> Principal:
    """Found and counted once per request, however many dependencies ask."""
    known = getattr(request.state, "principal", None)
    if isinstance(known, Principal):
        return known
    try:
        found = await _remembered(request, services)
    except Unauthorized:
        request.app.state.was_open = False
        raise
    request.app.state.was_open = found.key_id is None
    if found.key_id is None:
        check_origin(request, services.settings)
    request.state.principal = found
    if services.settings.requests_per_minute:
        await run_in_threadpool(rate_limit.count, request, found.key_id)
    return found


async def _remembered(request: Request, services: Services) -> Principal:
    """The principal behind the request's credential, remembered for a moment (app/changes.py)."""
    header = request.headers.get("authorization")
    may_be_open = _may_be_open(request, services.settings)
    # The credential itself is not kept in memory.
    key = (None if header is None else hash_secret(header), may_be_open)
    found = services.principals.get(key)
    if found is None or found.has_expired:

        def read(session: Session) -> Principal:
            return authenticate(session, header, may_be_open=may_be_open)

        found = await run_in_threadpool(services.principals.get_or_read, key, read)
    if found.has_expired:
        raise _unauthorized("The key is unknown, revoked or expired.", ', error="invalid_token"')
    return found


def _may_be_open(request: Request, settings: Settings) -> bool:
    """Whether no key is needed while none exists: bound to loopback, and this request was received there too.

    The settings do not know of a socket that another program opened, so the address of the connection has a say.
    """
    server = request.scope.get("server")
    return settings.is_loopback and not (server and is_beyond_loopback(str(server[0])))


def _was_open(request: Request, settings: Settings) -> bool:
    """Whether no key was needed when this process last looked; it may never have looked."""
    is_anonymous = "authorization" not in request.headers
    return is_anonymous and _may_be_open(request, settings) and getattr(request.app.state, "was_open", True)


def _needs_key(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(ApiKey.revoked_at.is_(None)))))


def _has_metrics_token(request: Request, settings: Settings) -> bool:
    token = _bearer_token(request.headers.get("authorization", ""))
    expected = settings.metrics_token
    return bool(expected) and hmac.compare_digest(token.encode(), expected.encode())


def _bearer_token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


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
