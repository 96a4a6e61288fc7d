"""Holding a job while it runs: a heartbeat that keeps the lease, and the progress call that hears when to stop.

The heartbeat runs in a thread of its own, so a training step of any length does not cost the lease. What it learns
(the row is lost, a cancel was asked for, the worker stops) reaches the job at its next progress call. A job that makes
none in time is ended with its process; the pool starts a new one.
"""

import contextvars
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import Database
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim, Standing
from app.settings import Settings
from learning.errors import Cancelled
from worker.draining import Drain
from worker.pace import Pace

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.1
#: What a job that was given back has left to end by itself.
STOP_SECONDS = 1.0
EXIT_ABANDONED = 75


class ClaimLost(Cancelled):
    """The row is no longer this worker's: whatever was computed is to be dropped."""


class WorkerStopping(Cancelled):
    """The worker has to end before the job does."""


class Acts(Protocol):
    """What a lease does to the row it holds: `app.jobs.lifecycle` to a job, `app.jobs.parts` to a part of one."""

    def heartbeat(self, session: Session, claim: Any, /, *, lease_seconds: float) -> Standing: ...
    def advance(
        self,
        session: Session,
        claim: Any,
        /,
        *,
        progress: float,
        phase: str,
        eta_seconds: float | None,
        has_event: bool,
    ) -> Standing: ...
    def cancelled(self, session: Session, claim: Any, /) -> object: ...
    def give_back(self, session: Session, claim: Any, /) -> object: ...


class Lease:
    """A context in which `claim` is kept alive."""

    def __init__(
        self, database: Database, settings: Settings, claim: Claim, drain: Drain, acts: Acts = lifecycle
    ) -> None:
        self._acts = acts
        self._database = database
        self._settings = settings
        self._claim = claim
        self._drain = drain
        self._pace = Pace()
        self._done = threading.Event()
        self._lost_at: float | None = None
        self._asked_at: float | None = None
        self._given_back_at: float | None = None
        # In a copy of this context, so that its log lines name the job too.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"lease-{claim.job_id}", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def progress(self, fraction: float, phase: str) -> None:
        """Writes progress now and then.

        Raises:
            ClaimLost, WorkerStopping, Cancelled: the job is to end here.
        """
        self._check()
        step = self._pace.step(fraction, phase)
        if step is None:
            return
        try:
            with self._database.transaction() as session:
                standing = self._acts.advance(
                    session,
                    self._claim,
                    progress=step.progress,
                    phase=step.phase,
                    eta_seconds=step.eta_seconds,
                    has_event=step.has_event,
                )
        except SQLAlchemyError as error:
            log.warning("progress_not_written", job_id=self._claim.job_id, reason=type(error).__name__)
            return
        self._note(standing)
        self._check()

    def _check(self) -> None:
        if self._lost_at is not None:
            raise ClaimLost("the job was taken from this worker")
        if self._asked_at is not None:
            raise Cancelled("the job was cancelled")
        if self._drain.is_over:
            raise WorkerStopping("the worker stops")

    def _note(self, standing: Standing) -> None:
        if not standing.holds:
            self._lost_at = self._lost_at or time.monotonic()
        elif standing.cancel_requested:
            self._asked_at = self._asked_at or time.monotonic()

    def _run(self) -> None:
        next_beat = time.monotonic() + self._settings.heartbeat_seconds
        while not self._done.wait(TICK_SECONDS):
            try:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self._settings.heartbeat_seconds
                    self._beat()
                self._end_if_overdue()
            except SQLAlchemyError as error:
                # The lease may run out meanwhile; whoever takes the job then fences this process off.
                log.warning("heartbeat_failed", job_id=self._claim.job_id, reason=type(error).__name__)

    def _beat(self) -> None:
        with self._database.transaction() as session:
            self._note(self._acts.heartbeat(session, self._claim, lease_seconds=self._settings.lease_seconds))

    def _end_if_overdue(self) -> None:
        """Ends the process where the job was told to stop and did not within its time."""
        grace = self._settings.cancel_grace_seconds
        if _is_over(self._lost_at, grace):
            self._end_process("claim_lost")
        if _is_over(self._asked_at, grace):
            with self._database.transaction() as session:
                self._acts.cancelled(session, self._claim)
            self._end_process("cancelled")
        if self._drain.is_over and self._given_back_at is None:
            with self._database.transaction() as session:
                self._acts.give_back(session, self._claim)
            self._given_back_at = time.monotonic()
        if _is_over(self._given_back_at, STOP_SECONDS):
            self._end_process("worker_stopping")

    def _end_process(self, reason: str) -> None:
        if self._done.is_set():
            return  # the job ended by itself at the last moment
        log.warning("process_ended", job_id=self._claim.job_id, reason=reason)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_ABANDONED)


def _is_over(since: float | None, grace: float) -> bool:
    return since is not None and time.monotonic() - since >= grace
