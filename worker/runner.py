"""Runs jobs one after another: the named one, then whatever else waits in the database, then parts of running ones."""

import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from app.dependencies import Services
from app.errors import AppError, InternalError, as_app_error
from app.jobs import lifecycle, parts, service
from app.jobs.lifecycle import Claim
from app.jobs.parts import PartClaim
from learning.errors import Cancelled
from worker.draining import Drain
from worker.handlers.registry import HANDLERS, HELPERS
from worker.lease import ClaimLost, Lease, WorkerStopping
from worker.measuring import Measurements, Parts
from worker.persistence import persist

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.1


class Runner:
    """One worker process. `owner` names it in the rows it holds."""

    def __init__(self, services: Services, queues: Sequence[str], drain: Drain) -> None:
        self.owner = uuid4().hex
        self._services = services
        self._settings = services.settings
        self._database = services.database
        self._queues = tuple(queues)
        self._drain = drain
        self._measurements = Measurements(services)

    @property
    def drain_seconds(self) -> float:
        return self._settings.drain_seconds

    def run(self, job_id: str) -> None:
        """Runs the job if it waits, then every other that waits in this worker's queues, or helps to run one."""
        claim = self._claim(self._queues, job_id) or self._next(None)
        while claim is not None:
            if isinstance(claim, PartClaim):
                self._help(claim)
            else:
                self._run(claim)
            claim = self._next(claim.queue)

    def _claim(self, queues: Sequence[str], job_id: str | None = None) -> Claim | None:
        if self._drain.is_on:
            return None
        with self._database.transaction() as session:
            return lifecycle.claim(
                session, owner=self.owner, lease_seconds=self._settings.lease_seconds, queues=queues, job_id=job_id
            )

    def _next(self, last_queue: str | None) -> Claim | None:
        """The oldest row of the other queues first, so that none of them starves behind a busy one; else a part."""
        for queue in sorted(self._queues, key=lambda name: name == last_queue):
            if claim := self._claim([queue]):
                return claim
        return self._part()

    def _part(self) -> PartClaim | None:
        """Of a job that another worker runs."""
        if self._drain.is_on:
            return None
        with self._database.transaction() as session:
            return parts.help_out(
                session, owner=self.owner, lease_seconds=self._settings.lease_seconds, queues=self._queues
            )

    def _help(self, part: PartClaim) -> None:
        with bound_contextvars(job_id=part.job_id, part=part.number, epoch=part.epoch, **self._origin(part)):
            measured = Parts()
            outcome = self._outcome_of_help(part, measured)
            log.info("help_ended", outcome=outcome)
            self._measurements.write(f"{part.kind}_part", outcome, measured)

    def _outcome_of_help(self, part: PartClaim, measured: Parts) -> str:
        """Whatever happens here costs the part alone: it is left to others, and an error to the job's own worker."""
        with Lease(self._database, self._settings, part, self._drain, parts) as lease:
            try:
                is_wanted = HELPERS[part.kind](self._services, part, measured.noting(lease.progress))
            except ClaimLost:
                return "lost"
            except WorkerStopping:
                persist(self._database, lambda session: parts.give_back(session, part))
                return "given_back"
            except Exception as error:  # noqa: BLE001 - the job's own worker will meet it too, and say what it is
                log.warning("help_failed", job_id=part.job_id, reason=type(error).__name__, detail=str(error)[:200])
                persist(self._database, lambda session: parts.suspect(session, part))
                return "failed"
            return "succeeded" if is_wanted else "lost"

    def _run(self, claim: Claim) -> None:
        about = {"job_id": claim.job_id, "kind": claim.kind, "epoch": claim.epoch, "attempt": claim.attempt}
        with bound_contextvars(**about, **self._origin(claim)):
            parts = Parts()
            outcome = self._outcome(claim, parts)
            self._measurements.write(claim.kind, outcome, parts)

    def _origin(self, claim: Claim) -> dict[str, str]:
        try:
            with self._database.session(read_only=True) as session:
                request_id = service.request_of(session, claim.job_id)
        except SQLAlchemyError:
            return {}  # what follows tells more of a database that is away
        return {} if request_id is None else {"request_id": request_id}

    def _outcome(self, claim: Claim, parts: Parts) -> str:
        """How the run ended: succeeded, cancelled, failed, requeued, given_back, or lost to another worker."""
        log.info("job_started", job_id=claim.job_id, kind=claim.kind, epoch=claim.epoch, attempt=claim.attempt)
        with Lease(self._database, self._settings, claim, self._drain) as lease:
            try:
                is_published = HANDLERS[claim.kind](self._services, claim, parts.noting(lease.progress))
                outcome = "succeeded" if is_published else self._not_published(claim)
            except ClaimLost:
                outcome = "lost"
            except WorkerStopping:
                persist(self._database, lambda session: lifecycle.give_back(session, claim))
                outcome = "given_back"
            except Cancelled:
                outcome = self._settle("cancelled", lambda session: lifecycle.cancelled(session, claim))
            except Exception as error:  # noqa: BLE001 - whatever a job raises becomes its error
                outcome = self._failed(claim, error)
        log.info("job_ended", job_id=claim.job_id, epoch=claim.epoch, outcome=outcome)
        return outcome

    def _settle(self, outcome: str, action: Callable[[Session], object]) -> str:
        return outcome if persist(self._database, action) else "lost"

    def _not_published(self, claim: Claim) -> str:
        """Publishing found the row lost, or a cancel that came at the last moment."""
        return self._settle("cancelled", lambda session: lifecycle.cancelled(session, claim))

    def _failed(self, claim: Claim, error: Exception) -> str:
        """The client's errors end the job; others may not come again, so it is tried again a few times."""
        told = as_app_error(error)
        if told.status < 500:
            log.info("job_refused", job_id=claim.job_id, code=told.code, detail=told.detail)
            return self._settle("failed", lambda session: lifecycle.fail(session, claim, told))
        log.error("job_error", job_id=claim.job_id, attempt=claim.attempt, exc_info=error)
        told = _without_internals(told)
        if claim.attempt >= self._settings.max_attempts:
            return self._settle("failed", lambda session: lifecycle.fail(session, claim, told))
        self._pause(claim.attempt)
        return self._settle("requeued", lambda session: lifecycle.retry_later(session, claim, told))

    def _pause(self, attempt: int) -> None:
        """A little longer after each attempt: what is away may come back."""
        deadline = time.monotonic() + min(2.0 ** (attempt - 1), 30.0)
        while time.monotonic() < deadline and not self._drain.is_on:
            time.sleep(TICK_SECONDS)


def _without_internals(error: AppError) -> AppError:
    if error.code != InternalError.code:
        return error
    return InternalError("Something went wrong on our side; the job's id finds it in the log.")
