"""A job's events as they happen, over text/event-stream."""

import json
import time
from collections.abc import AsyncIterator

import anyio
import structlog
from anyio import to_thread
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.db import Database
from app.jobs import service
from app.jobs.lifecycle import TERMINAL
from app.jobs.schemas import EventRead
from app.tables import Job

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25
#: A quiet job is looked at less often.
SLOWEST_POLL_SECONDS = 1.0
QUIET_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 15


def _read(database: Database, job_id: str, after: int) -> tuple[list[EventRead], bool]:
    """The events after `after`, and whether no more will come."""
    with database.session(read_only=True) as session:
        state = session.scalar(select(Job.state).where(Job.id == job_id))
        found = [EventRead.model_validate(event) for event in service.events(session, job_id, after)]
    if found:
        database.look_again()  # the last one may tell of a new version
    return found, (state is None or state in TERMINAL) and len(found) < service.MAX_EVENTS


def _message(event: EventRead) -> ServerSentEvent:
    data = event.model_dump(mode="json", by_alias=True)
    return ServerSentEvent(json.dumps(data), id=str(event.id), event=event.type)


async def follow(database: Database, job_id: str, after: int, stopping: anyio.Event) -> AsyncIterator[ServerSentEvent]:
    """The events after number `after`, ending after the job's last one or when the server stops.

    Between two looks it holds neither a thread nor a connection.
    """
    last_seen = time.monotonic()
    while not stopping.is_set():
        try:
            found, is_over = await to_thread.run_sync(_read, database, job_id, after)
        except SQLAlchemyError as error:
            log.warning("events_not_read", job_id=job_id, reason=type(error).__name__)
            found, is_over = [], False
        for event in found:
            yield _message(event)
            after, last_seen = event.id, time.monotonic()
        if is_over:
            return
        is_quiet = time.monotonic() - last_seen > QUIET_SECONDS
        await anyio.sleep(SLOWEST_POLL_SECONDS if is_quiet else POLL_SECONDS)


def stream(database: Database, job_id: str, after: int) -> EventSourceResponse:
    stopping = anyio.Event()
    return EventSourceResponse(
        follow(database, job_id, after, stopping),
        ping=KEEP_ALIVE_SECONDS,
        shutdown_event=stopping,
        shutdown_grace_period=2 * SLOWEST_POLL_SECONDS,
    )
