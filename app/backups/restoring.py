"""Restoring a backup into an empty database of either kind, and into the storage.

Everything is checked before anything is written: the schema, every table and every blob. Then blobs are stored, which
harms nobody; the rows follow in one transaction, in the schema that they were written in; migrations do the rest.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, func, inspect, select, text
from sqlalchemy.exc import DataError, IntegrityError

from app.backups import rows
from app.backups.containers import Source, open_container
from app.backups.errors import BackupError
from app.backups.manifest import MANIFEST, Manifest, blob_path, parse, table_path
from app.db import Database
from app.migrate import alembic_config, revision_of, upgrade
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.storage import CHUNK, Storage
from app.tables import Base, Project

MOST_MANIFEST_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Restored:
    rows: int
    blobs: int


def restore_backup(settings: Settings, storage: Storage, path: Path) -> Restored:
    """Fills the configured database and `storage` from the backup at `path`.

    Raises:
        BackupError: the backup is damaged, of a newer schema or no backup; or the database is not empty.
        Unavailable: the storage is away.
    """
    with open_container(path) as source:
        with source.open(MANIFEST) as file:
            manifest = parse(file.read(MOST_MANIFEST_BYTES))
        _check_schema(settings, manifest)
        _check_tables(source, manifest)
        _check_blobs(source, manifest)
        database = Database(settings)
        try:
            _check_empty(settings, database.engine)
            for sha256 in manifest.blobs:
                _put(source, storage, sha256)
            _fill(settings, database.engine, source, manifest)
        finally:
            database.dispose()
    upgrade(settings)
    return Restored(rows=manifest.n_rows, blobs=len(manifest.blobs))


def _known_revisions(settings: Settings) -> list[str]:
    """Newest first."""
    script = ScriptDirectory.from_config(alembic_config(settings))
    return [found.revision for found in script.walk_revisions()]


def _check_schema(settings: Settings, manifest: Manifest) -> None:
    known = _known_revisions(settings)
    if manifest.schema_revision not in known:
        raise BackupError(
            f"the backup has the schema {manifest.schema_revision} of Metagraft {manifest.service_version}, and the "
            f"newest one known here is {known[0]}; install that version, or a later one, first"
        )


def _check_tables(source: Source, manifest: Manifest) -> None:
    """Every table is as it was written, and every blob that a row names is in the list of blobs."""
    for name, entry in manifest.tables.items():
        path, count = table_path(name), 0
        if _digest(source, path) != entry.sha256:
            raise BackupError(f"{path} is damaged; use another backup")
        with source.open(path) as file:
            for row in rows.parsed(file, path):
                count += 1
                if missing := [sha256 for sha256 in rows.named_blobs(name, row) if sha256 not in manifest.blobs]:
                    raise BackupError(f"row {count} of {path} names the blob {missing[0]}, which the backup lacks")
        if count != entry.rows:
            raise BackupError(f"{path} has {count} rows, not {entry.rows}; use another backup")


def _check_blobs(source: Source, manifest: Manifest) -> None:
    for sha256 in manifest.blobs:
        if _digest(source, blob_path(sha256)) != sha256:
            raise BackupError(f"the blob {sha256} was changed; use another backup")


def _digest(source: Source, name: str) -> str:
    digest = hashlib.sha256()
    with source.open(name) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_empty(settings: Settings, engine: Engine) -> None:
    with engine.connect().execution_options(read_only=True) as connection:
        revision = revision_of(connection)
        if revision and revision not in _known_revisions(settings):
            raise BackupError(f"the database has the schema {revision}, which this version does not know")
        present = set(inspect(connection).get_table_names())
        for table in Base.metadata.sorted_tables:
            if table.name not in present or table.name in rows.TRANSIENT:
                continue
            counted = select(func.count()).select_from(table)
            if table.name == Project.__tablename__:
                counted = counted.where(Project.id != DEFAULT_PROJECT)
            if number := connection.scalar(counted):
                raise BackupError(
                    f"the database is not empty: {table.name} has {number} row(s); restore into a new database"
                )


def _put(source: Source, storage: Storage, sha256: str) -> None:
    with tempfile.TemporaryDirectory(prefix="metagraft-") as folder:
        path = Path(folder) / sha256
        with source.open(blob_path(sha256)) as file, path.open("xb") as copy:
            shutil.copyfileobj(file, copy, CHUNK)
        if storage.put_file(path) != sha256:
            raise BackupError(f"the blob {sha256} was changed while it was read")


def _fill(settings: Settings, engine: Engine, source: Source, manifest: Manifest) -> None:
    """Makes the tables of the backup's schema and inserts the rows, all or none."""
    config = alembic_config(settings)
    command.downgrade(config, "base")
    command.upgrade(config, manifest.schema_revision)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            _insert_all(connection, source, manifest)
    except (DataError, IntegrityError) as error:
        reason = str(error.orig).partition("\n")[0]
        raise BackupError(f"the rows do not fit their tables ({reason}); use another backup") from None


def _insert_all(connection: Connection, source: Source, manifest: Manifest) -> None:
    metadata = MetaData()
    metadata.reflect(connection)
    expected = Base.metadata.tables.keys() & metadata.tables.keys() - rows.TRANSIENT
    if expected != manifest.tables.keys():
        name = min(expected ^ manifest.tables.keys())
        raise BackupError(f"the backup and its schema do not agree on the table {name}; use another backup")
    connection.execute(metadata.tables[Project.__tablename__].delete())
    for table in metadata.sorted_tables:
        if table.name in manifest.tables:
            path = table_path(table.name)
            with source.open(path) as file:
                rows.insert(connection, table, rows.parsed(file, path), path)
