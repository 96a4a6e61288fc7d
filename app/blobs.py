"""Which rows name a blob, and how a blob is neither deleted while it is being named nor missing once it is.

Whoever inserts a row that names a blob calls `hold` in the same transaction; whoever deletes one calls `delete_unused`.
Both take the blob's lock first, so they come one after the other: the deletion sees the new row, or the row's writer
sees that the blob is gone and puts it back.
"""

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db import db_now
from app.storage import Storage
from app.tables import Dataset, Job, JobPart, Lease, MetaLearner, ModelVersion

#: Every column that holds the name of a blob.
BLOB_COLUMNS: tuple[InstrumentedAttribute[str] | InstrumentedAttribute[str | None], ...] = (
    Dataset.blob, MetaLearner.artifact, ModelVersion.artifact, JobPart.blob,
)  # fmt: skip
#: Every JSON column that holds one, and the key it stands under.
BLOB_KEYS: tuple[tuple[InstrumentedAttribute[Any], str], ...] = ((Job.result, "blob"),)

_BACKUP = "backup-"


def lock(session: Session, sha256: str) -> None:
    """Until the transaction ends nobody else decides about this blob."""
    # On SQLite this is the lock: a transaction that has begun is its only writer. It begins with its first use.
    session.connection()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(int(sha256[:15], 16))))


def hold(session: Session, storage: Storage, sha256: str, put_again: Callable[[], object]) -> None:
    """Keeps the blob while this transaction, which names it, is open. Where it was deleted, `put_again` stores it."""
    lock(session, sha256)
    if not storage.exists(sha256):
        put_again()


def delete_unused(session: Session, storage: Storage, sha256: str) -> bool:
    """Deletes the blob unless a row of whatever project names it, or a backup is being made; whether it did."""
    lock(session, sha256)
    if is_named(session, sha256) or is_backing_up(session):
        return False
    storage.delete(sha256)
    return True


def is_named(session: Session, sha256: str) -> bool:
    return any(session.scalar(query.where(name == sha256).limit(1)) is not None for query, name in _queries())


def named(session: Session | Connection) -> set[str]:
    """Every blob that a row names."""
    return {found for query, name in _queries() for found in session.scalars(query.where(name.is_not(None)).distinct())}


def backup_lease(name: str) -> str:
    """The name of the lease under which one backup keeps every blob from being deleted."""
    return f"{_BACKUP}{name}"


def is_backing_up(session: Session) -> bool:
    """Whether a backup is being made. What it read may name blobs that no row names any more."""
    running = select(Lease.name).where(Lease.name.startswith(_BACKUP), Lease.until > db_now())
    return session.scalar(running.limit(1)) is not None


def _queries() -> Iterator[tuple[Select[Any], ColumnElement[Any]]]:
    for column in BLOB_COLUMNS:
        yield select(column), column.expression
    for column, key in BLOB_KEYS:
        value = column[key].as_string()
        yield select(value), value
