"""Engines, sessions, and the few things that differ between SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, Float, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.changes import count_changes
from app.settings import Settings


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on both databases (SQLite stores none of the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[float]):  # noqa: N801 - reads as SQL, like sqlalchemy.func
    """The database's clock, seconds since 1970 with a fraction: leases never compare two machines' clocks."""

    type = Float()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: SQLCompiler, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: SQLCompiler, **_kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def utc_now() -> datetime:
    return datetime.now(UTC)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not open deferred transactions by itself: _begin_immediate does it.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Any) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    # A deferred transaction that reads and then writes fails at once when another writer got in between.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


#: The server runs routes in so many threads (anyio's default), and each may want a connection.
REQUEST_THREADS = 40


def make_engine(settings: Settings) -> Engine:
    """An engine for the configured database, with the timeouts that keep a busy one from hanging requests."""
    url = make_url(settings.resolved_database_url)
    overflow = max(0, REQUEST_THREADS - settings.pool_size)
    if url.get_backend_name() == "sqlite":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url, pool_size=settings.pool_size, max_overflow=overflow, pool_timeout=settings.pool_timeout
        )
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _begin)
        return engine
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=settings.pool_size,
        max_overflow=overflow,
        pool_timeout=settings.pool_timeout,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 3, "options": "-c lock_timeout=3000 -c statement_timeout=15000"},
    )


class Database:
    """One engine and its sessions."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings)
        self._writers = sessionmaker(self.engine, expire_on_commit=False)
        self._listeners: list[Callable[[], None]] = []
        count_changes(self._writers, self.look_again)
        self._readers = sessionmaker(self.engine.execution_options(read_only=True), expire_on_commit=False)

    def session(self, *, read_only: bool = False) -> Session:
        """A new session. A read-only one takes no write lock on SQLite; it must not write."""
        return self._readers() if read_only else self._writers()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session committed at the end of the block, rolled back on any exception."""
        with self._writers.begin() as session:
            yield session

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every commit of this process that changed what is remembered (app/changes.py)."""
        self._listeners.append(listener)

    def look_again(self) -> None:
        """Has nothing that is remembered be used before another look; for whoever tells a client what may be newer."""
        for listener in self._listeners:
            listener()

    def dispose(self) -> None:
        self.engine.dispose()
