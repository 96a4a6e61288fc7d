"""Idempotency-Key: a repeated creating POST gets its first answer instead of creating twice.

The key's row is written by the transaction that creates, so both exist or neither does: a request that fails or dies
leaves nothing behind, and its key can be used again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, InvalidInput
from app.tables import IdempotencyKey

#: For a route's signature; None where the client sent no key.
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x20-\x7e]+$",
        description="Same key and body: the first answer again. Printable ASCII",
    ),
]


class InFlight(Conflict):
    code = "idempotency_key_in_flight"
    retryable = True


@dataclass(frozen=True)
class Answer:
    """What a creating route answers: `body` is JSON."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def _hash(request: Any) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _lock(session: Session, project_id: str, key: str) -> bool:
    """Keeps others with this key out until the transaction ends. SQLite's one writer at a time is such a lock."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    digest = hashlib.sha256(f"{project_id}\n{key}".encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(number))))


def expire(session: Session, hours: float) -> None:
    """Forgets the keys that are older than `hours`."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - timedelta(hours=hours)))


def once(
    session: Session,
    project_id: str,
    key: str | None,
    request: Any,
    create: Callable[[], Answer],
    *,
    secret: Sequence[str] = (),
) -> Answer:
    """`create()` the first time, its answer again for the same `key` and `request`.

    Args:
        request: JSON that tells one request from another; say which route it is for.
        secret: fields of the body that are not kept, so null when the answer is given again.

    Raises:
        InvalidInput: the key was used for another request.
        InFlight: a request with this key is being worked on.
    """
    if key is None:
        return create()
    if not _lock(session, project_id, key):
        raise InFlight("A request with this Idempotency-Key is being worked on.", headers={"Retry-After": "1"})
    stored = session.get(IdempotencyKey, (project_id, key))
    if stored is not None:
        return _again(stored, _hash(request))
    answer = create()
    session.add(
        IdempotencyKey(
            project_id=project_id,
            key=key,
            request_hash=_hash(request),
            status=answer.status,
            body=answer.body | dict.fromkeys(secret),
            headers=answer.headers,
        )
    )
    session.flush()
    return answer


def _again(stored: IdempotencyKey, request_hash: str) -> Answer:
    if stored.request_hash != request_hash:
        raise InvalidInput(
            "This Idempotency-Key was used for another request; choose a new key.", code="idempotency_key_reused"
        )
    if stored.status is None or stored.body is None:
        raise InFlight("A request with this Idempotency-Key is being worked on.", headers={"Retry-After": "1"})
    return Answer(stored.status, stored.body, {**(stored.headers or {}), "Idempotency-Replayed": "true"})
