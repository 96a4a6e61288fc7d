"""Garbage collection of blobs that no row names: what deleted models and failed jobs leave behind.

Two passes. The first writes down which blobs of the storage no row names, and forgets those that are named again. The
second deletes what was written down long enough ago and is still unnamed, one blob and one transaction at a time. An
upload stores its blob before it inserts the row that names it: it has that long, and `app.blobs` covers even those
who take longer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Select, delete, insert, select

from app import blobs
from app.db import Database, db_now
from app.storage import Storage
from app.tables import BlobMark

#: Not a blob's name: the lock that collectors take turns by.
_TURN = "f" * 64
_BATCH = 300

#: Name and bytes of a blob.
Blob = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was deleted, or would be; what no row names but is not old enough; bytes of files left half written."""

    deleted: Sequence[Blob]
    waiting: Sequence[Blob]
    partial_bytes: int = 0
    is_held_back: bool = False
    """Whether a backup is being made, so that nothing may be deleted."""

    @property
    def deleted_bytes(self) -> int:
        return sum(size for _, size in self.deleted)

    @property
    def waiting_bytes(self) -> int:
        return sum(size for _, size in self.waiting)


def collect(database: Database, storage: Storage, *, older_than_hours: float) -> Collection:
    """Deletes the blobs that no row has named for so long, as far as earlier collections and this one saw.

    Raises:
        Unavailable: the storage is away; what was deleted until then stays deleted.
    """
    unnamed = mark(database, storage)
    deleted = sweep(database, storage, older_than_hours=older_than_hours)
    gone = {sha256 for sha256, _ in deleted}
    with database.session(read_only=True) as session:
        is_held_back = blobs.is_backing_up(session)
    return Collection(
        deleted=deleted,
        waiting=[blob for blob in unnamed if blob[0] not in gone],
        partial_bytes=storage.discard_partial(older_than_hours * 3600),
        is_held_back=is_held_back,
    )


def preview(database: Database, storage: Storage, *, older_than_hours: float) -> Collection:
    """What `collect` would delete now. Writes nothing."""
    stored = dict(storage.blobs())
    due = _due(older_than_hours)
    with database.session(read_only=True) as session:
        unnamed = _unnamed(stored, blobs.named(session))
        old = {sha256 for sha256, _ in session.execute(due)} if older_than_hours > 0 else set(unnamed)
        is_held_back = blobs.is_backing_up(session)
    deleted = [] if is_held_back else [(sha256, size) for sha256, size in unnamed.items() if sha256 in old]
    waiting = [(sha256, size) for sha256, size in unnamed.items() if is_held_back or sha256 not in old]
    return Collection(deleted=deleted, waiting=waiting, is_held_back=is_held_back)


def mark(database: Database, storage: Storage) -> list[Blob]:
    """The first pass: the blobs that no row names, each written down with the time it was first seen so."""
    stored = dict(storage.blobs())  # before the rows are read: a blob that is named later is not in this list
    with database.transaction() as session:
        blobs.lock(session, _TURN)
        unnamed = _unnamed(stored, blobs.named(session))
        marked = set(session.scalars(select(BlobMark.sha256)))
        for batch in _batches(sorted(marked - unnamed.keys())):
            session.execute(delete(BlobMark).where(BlobMark.sha256.in_(batch)))
        for batch in _batches(sorted(unnamed.keys() - marked)):
            rows = [{"sha256": sha256, "size_bytes": unnamed[sha256], "marked_at": db_now()} for sha256 in batch]
            session.execute(insert(BlobMark).values(rows))
    return list(unnamed.items())


def sweep(database: Database, storage: Storage, *, older_than_hours: float) -> list[Blob]:
    """The second pass: what was marked at least so long ago and is still unnamed is deleted, and returned."""
    with database.session(read_only=True) as session:
        due = [(sha256, size) for sha256, size in session.execute(_due(older_than_hours))]
    deleted = []
    for sha256, size in due:
        with database.transaction() as session:
            if blobs.delete_unused(session, storage, sha256):
                session.execute(delete(BlobMark).where(BlobMark.sha256 == sha256))
                deleted.append((sha256, size))
    return deleted


def _due(older_than_hours: float) -> Select[str, int]:
    before = db_now() - older_than_hours * 3600
    return select(BlobMark.sha256, BlobMark.size_bytes).where(BlobMark.marked_at <= before).order_by(BlobMark.sha256)


def _unnamed(stored: dict[str, int], named: set[str]) -> dict[str, int]:
    return {sha256: size for sha256, size in sorted(stored.items()) if sha256 not in named}


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, _BATCH)):
        yield batch
