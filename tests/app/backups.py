"""What the tests of backups share."""

from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.backups.rows import TRANSIENT
from app.db import Database
from app.dependencies import Services
from app.settings import Settings
from app.tables import Base
from tests.app.rows import fill

DATA = [b"first blob", b"second blob", b"third blob", b"fourth blob"]


def elsewhere(settings: Settings, folder: Path) -> Settings:
    """An SQLite database that is not there yet, and a storage: for what does not depend on the kind."""
    return settings.model_copy(update={"data_dir": folder, "database_url": f"sqlite:///{folder / 'other.db'}"})


def filled(services: Services) -> list[str]:
    """Rows in every table, whose blobs are in storage; the names of these."""
    names = [services.storage.put_bytes(data) for data in DATA]
    results = [{"rows": 1, "blob": names[3]}, {"rows": 1, "blob": names[0]}]
    columns = {"datasets.blob": names[:2], "meta_learners.artifact": names[1:3], "model_versions.artifact": names[1:3]}
    columns["job_parts.blob"] = [names[2], names[3]]
    fill(services.database.engine, {**columns, "jobs.result": results})
    return names


def rows_of(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Every row as the service reads it, so that databases of two kinds can be compared."""
    database = Database(settings)
    try:
        with database.session(read_only=True) as session:
            return {
                table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
                for table in Base.metadata.sorted_tables
                if table.name not in TRANSIENT
            }
    finally:
        database.dispose()
