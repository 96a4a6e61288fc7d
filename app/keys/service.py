"""Keys in the database. How one is made and verified stands in app/security.py. Nothing here commits."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, NotFound
from app.security import create_key
from app.tables import ApiKey


def owned(project_id: str) -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.project_id == project_id)


def get(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Raises `NotFound` where the project has no such key."""
    key = session.scalar(owned(project_id).where(ApiKey.id == key_id))
    if key is None:
        raise NotFound(f"There is no key '{key_id}'.")
    return key


def revoke(key: ApiKey) -> None:
    """Ends the key at once and for good; doing so again changes nothing."""
    key.revoked_at = key.revoked_at or utc_now()


def rotate(session: Session, old: ApiKey) -> tuple[ApiKey, str]:
    """A second key with the same name, scopes and expiry; both live until the first is revoked.

    Raises:
        Conflict: the key is revoked (key_revoked) or has expired (key_expired).
    """
    if old.revoked_at is not None:
        raise Conflict("A revoked key cannot be rotated; create a new one.", code="key_revoked")
    if old.expires_at is not None and old.expires_at <= utc_now():
        raise Conflict("An expired key cannot be rotated; create a new one.", code="key_expired")
    return create_key(session, project_id=old.project_id, name=old.name, scopes=old.scopes, expires_at=old.expires_at)
