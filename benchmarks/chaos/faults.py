"""Named places in a job's life, and what can go wrong there, once.

A place is a function of the service; the fault strikes before it is called or after it returned. Nothing in the service
knows of it: the process that is to fail wraps the function.
"""

import errno
import functools
import os
import signal
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import psycopg
from sqlalchemy.exc import OperationalError

from app import storage
from app.inference import features
from app.jobs import lifecycle, service
from app.queue import HintSender
from app.settings import Settings
from worker import runner
from worker.handlers import adapt


@dataclass(frozen=True)
class Place:
    """`owner.attribute` is wrapped. `by`: who gets there, a worker, a sweeper that finds a lost job, or the API."""

    owner: Any
    attribute: str
    after: bool = False
    by: str = "worker"
    texts: bool = False
    """Whether the job has to have an encoder."""


PLACES: Mapping[str, Place] = {
    "claim": Place(lifecycle, "claim"),
    "claim, before its commit": Place(lifecycle, "claim", after=True),
    "claim, committed": Place(runner.Runner, "_run"),
    "loading": Place(adapt, "load_named"),
    "encoding": Place(features.FeatureCache, "get_or_encode", texts=True),
    "encoded, features on disk": Place(features, "_write", after=True, texts=True),
    "progress": Place(lifecycle, "advance"),
    "heartbeat": Place(lifecycle, "heartbeat", texts=True),
    "artifact, before its file": Place(storage, "write_durably"),
    "artifact, before its rename": Place(os, "fsync"),
    "artifact, stored": Place(storage.FolderStorage, "put_bytes", after=True),
    "publishing": Place(adapt, "publish_version"),
    "published, before the commit": Place(adapt, "publish_version", after=True),
    "published, committed": Place(adapt, "persist", after=True),
    "event, after its transition": Place(lifecycle, "JobEvent"),
    "lost job, before it is requeued": Place(lifecycle, "lose", by="sweeper"),
    "lost job, before the commit": Place(lifecycle, "lose", after=True, by="sweeper"),
    "submitted, before the commit": Place(service, "submit", after=True, by="api"),
    "hint": Place(HintSender, "send", by="api"),
    "hint, sent": Place(HintSender, "send", after=True, by="api"),
}


def _kill(_settings: Settings) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full(_settings: Settings) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_error(_settings: Settings) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _connection_reset(settings: Settings) -> None:
    """PostgreSQL ends every connection of the database; SQLite, which has none, reports what a torn one would."""
    if not settings.database_url.startswith("postgresql"):
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


FAULTS: Mapping[str, Callable[[Settings], None]] = {
    "SIGKILL": _kill, "ENOSPC": _disk_full, "EIO": _disk_error, "connection reset": _connection_reset,
}  # fmt: skip


def arm(place: Place, fault: str, settings: Settings, struck: "Synchronized[int]") -> None:
    """Makes this process fail at `place` when it first gets there, and says so in `struck`."""
    original = getattr(place.owner, place.attribute)

    @functools.wraps(original, updated=())
    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named) if place.after else None
        if not struck.value:
            struck.value = 1
            FAULTS[fault](settings)
        return result if place.after else original(*arguments, **named)

    setattr(place.owner, place.attribute, wrapped)
