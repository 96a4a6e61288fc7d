"""Making a backup while the service runs.

The rows are read in one snapshot. Blobs never change, so they are copied afterwards; a lease in the database keeps
them from being deleted until that is done, even where a client deletes the rows that name them.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, text, update

from app import blobs
from app.backups import containers, rows
from app.backups.containers import Sink
from app.backups.errors import BackupError
from app.backups.manifest import FORMAT, MANIFEST, Manifest, TableEntry, blob_path, table_path
from app.db import Database, db_now, utc_now
from app.errors import NotFound, Unavailable
from app.migrate import revision_of
from app.storage import Storage
from app.tables import Base, Lease

#: A backup that died keeps blobs for so long.
LEASE_SECONDS = 3600.0
RENEW_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Written:
    rows: int
    blobs: int


def write_backup(database: Database, storage: Storage, target: Path) -> Written:
    """A backup of everything at `target`: a new folder, or a new file where the name ends in `.tar`.

    Raises:
        BackupError: `target` exists, or a blob that a row names is missing or damaged.
        Unavailable: the storage is away.
    """
    with containers.new_container(target) as sink, _blobs_kept(database) as kept:
        with _snapshot(database) as connection:
            schema = revision_of(connection)
            named = sorted(blobs.named(connection))
            tables = {
                table.name: _add_table(sink, table.name, rows.lines(connection, table))
                for table in Base.metadata.sorted_tables
                if table.name not in rows.TRANSIENT
            }
        sizes = {}
        for sha256 in named:
            sizes[sha256] = _add_blob(sink, storage, sha256)
            kept.renew()
        manifest = Manifest(
            format=FORMAT,
            service_version=version("metagraft"),
            schema_revision=schema,
            created_at=utc_now(),
            tables=tables,
            blobs=sizes,
        )
        containers.add_bytes(sink, MANIFEST, manifest.model_dump_json(indent=1).encode())
    return Written(rows=manifest.n_rows, blobs=len(sizes))


@contextmanager
def _snapshot(database: Database) -> Iterator[Connection]:
    """A connection whose every statement sees the database as it was at the first."""
    is_postgresql = database.engine.dialect.name == "postgresql"
    options = {"isolation_level": "REPEATABLE READ"} if is_postgresql else {"read_only": True}
    with database.engine.connect().execution_options(**options) as connection:
        if is_postgresql:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        yield connection


class _Lease:
    """Nothing is deleted from the storage while it lasts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = blobs.backup_lease(uuid4().hex)
        self._renewed_at = time.monotonic()
        with database.transaction() as session:
            session.execute(delete(Lease).where(Lease.name.startswith(blobs.backup_lease("")), Lease.until < db_now()))
            session.execute(insert(Lease).values(name=self._name, until=db_now() + LEASE_SECONDS))

    def renew(self) -> None:
        if time.monotonic() - self._renewed_at < RENEW_SECONDS:
            return
        self._renewed_at = time.monotonic()
        with self._database.transaction() as session:
            mine = update(Lease).where(Lease.name == self._name)
            session.execute(mine.values(until=db_now() + LEASE_SECONDS))

    def end(self) -> None:
        with self._database.transaction() as session:
            session.execute(delete(Lease).where(Lease.name == self._name))


@contextmanager
def _blobs_kept(database: Database) -> Iterator[_Lease]:
    lease = _Lease(database)
    try:
        yield lease
    finally:
        lease.end()


def _add_table(sink: Sink, name: str, lines: Iterator[bytes]) -> TableEntry:
    digest, count = hashlib.sha256(), 0
    with tempfile.TemporaryFile() as file:
        for line in lines:
            file.write(line)
            digest.update(line)
            count += 1
        size = file.tell()
        file.seek(0)
        sink.add(table_path(name), file, size)
    return TableEntry(rows=count, sha256=digest.hexdigest())


def _add_blob(sink: Sink, storage: Storage, sha256: str) -> int:
    """Its size in bytes."""
    try:
        path = storage.fetch(sha256)
    except NotFound:
        raise BackupError(_unusable(sha256, "missing from the storage")) from None
    except Unavailable as error:
        if error.code != "blob_damaged":
            raise
        raise BackupError(_unusable(sha256, "damaged")) from None
    containers.add_file(sink, blob_path(sha256), path)
    return path.stat().st_size


def _unusable(sha256: str, what: str) -> str:
    return f"the blob {sha256} is {what}; restore it, or delete the dataset, model or job that it belongs to"
