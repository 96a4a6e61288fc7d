"""Every change of a job's state: one conditional UPDATE and one event, in the caller's transaction (docs/adr/0003).

    queued -> running -> succeeded | failed | cancelled          running -> queued   lost lease, retryable error, drain

A worker names its claim by (id, epoch, owner): once the row was claimed again, or reached its end, no UPDATE of an
older claim matches any more, so a process that was merely slow can change nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from app.db import db_now, utc_now
from app.errors import AppError, InternalError
from app.tables import Job, JobEvent, JobPart

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to run one job, until another process claims it with a higher epoch."""

    job_id: str
    project_id: str
    kind: str
    queue: str
    spec: Mapping[str, Any]
    epoch: int
    owner: str
    attempt: int


@dataclass(frozen=True)
class Standing:
    """What a worker learns about its claim when it writes. `holds` is False once the row is no longer its own."""

    holds: bool
    cancel_requested: bool = False


def problem(error: AppError) -> dict[str, Any]:
    """An error as it stands in `job.error`."""
    return error.problem().model_dump(mode="json")


def transition(
    session: Session, where: Sequence[ColumnElement[bool]], values: Mapping[str, Any], event: str, **data: Any
) -> Job | None:
    """Changes the one matching row and writes its event; None where no row matches. A job that ends has no parts."""
    changed = update(Job).where(*where).values(**values, last_event=Job.last_event + 1).returning(Job)
    options = {"synchronize_session": False, "populate_existing": True}
    job = session.scalars(changed, execution_options=options).one_or_none()
    if job is not None:
        session.add(JobEvent(job_id=job.id, seq=job.last_event, type=event, data={"state": job.state, **data}))
        if job.state in TERMINAL:
            session.execute(delete(JobPart).where(JobPart.job_id == job.id))
    return job


def mine(claim: Claim) -> list[ColumnElement[bool]]:
    return [Job.id == claim.job_id, Job.epoch == claim.epoch, Job.owner == claim.owner, Job.state == "running"]


def holds(session: Session, claim: Claim) -> bool:
    """Whether the claim stands and nobody asked to cancel; the row is locked for the rest of the transaction."""
    return session.scalar(select(Job.id).where(*_wanted(claim)).with_for_update()) is not None


def _wanted(claim: Claim) -> list[ColumnElement[bool]]:
    return [*mine(claim), Job.cancel_requested.is_(False)]


def insert(session: Session, job: Job) -> None:
    """Adds a queued job and its first event."""
    session.add(job)
    job.last_event = 1
    session.flush()
    session.add(JobEvent(job_id=job.id, seq=1, type="queued", data={"state": "queued", **_origin()}))
    # The database's clock, so that the sweeper compares like with like.
    session.execute(update(Job).where(Job.id == job.id).values(hinted_at=db_now()))


def _origin() -> dict[str, str]:
    """The request that this is done for, so that the worker's log lines can name it."""
    request_id = get_contextvars().get("request_id")
    return {} if request_id is None else {"request_id": str(request_id)}


def claim(
    session: Session, *, owner: str, lease_seconds: float, queues: Sequence[str], job_id: str | None = None
) -> Claim | None:
    """The named queued job, or the oldest one of `queues`; None where there is none to be had."""
    waiting = select(Job.id).where(Job.state == "queued", Job.queue.in_(queues))
    if job_id is not None:
        waiting = waiting.where(Job.id == job_id)
    waiting = waiting.order_by(Job.created_at, Job.id).limit(1).with_for_update(skip_locked=True)
    values = {
        "state": "running", "phase": "starting", "progress": 0.0, "eta_seconds": None,
        "owner": owner, "epoch": Job.epoch + 1, "attempt": Job.attempt + 1,
        "lease_until": db_now() + lease_seconds, "advanced_at": db_now(),
        "started_at": func.coalesce(Job.started_at, utc_now()),
    }  # fmt: skip
    where = [Job.id == waiting.scalar_subquery(), Job.state == "queued"]
    job = transition(session, where, values, "running")
    if job is None:
        return None
    return Claim(
        job_id=job.id,
        project_id=job.project_id,
        kind=job.kind,
        queue=job.queue,
        spec=job.spec,
        epoch=job.epoch,
        owner=owner,
        attempt=job.attempt,
    )


def _standing(session: Session, where: Sequence[ColumnElement[bool]], values: Mapping[str, Any]) -> Standing:
    changed = update(Job).where(*where).values(**values).returning(Job.cancel_requested)
    flag = session.scalar(changed, execution_options={"synchronize_session": False})
    return Standing(False) if flag is None else Standing(True, flag)


def heartbeat(session: Session, claim: Claim, *, lease_seconds: float) -> Standing:
    """Extends the lease. An expired one is extended too, as long as nobody else took the row."""
    return _standing(session, mine(claim), {"lease_until": db_now() + lease_seconds})


def advance(
    session: Session, claim: Claim, *, progress: float, phase: str, eta_seconds: float | None, has_event: bool
) -> Standing:
    """Writes progress, and an event about it where `has_event`."""
    values = {"progress": progress, "phase": phase, "eta_seconds": eta_seconds, "advanced_at": db_now()}
    if not has_event:
        return _standing(session, mine(claim), values)
    job = transition(session, mine(claim), values, "progress", progress=progress, phase=phase, eta_seconds=eta_seconds)
    return Standing(False) if job is None else Standing(True, job.cancel_requested)


def _end(state: str, **values: Any) -> dict[str, Any]:
    return {
        "state": state, "phase": state, "eta_seconds": None, "owner": None, "lease_until": None,
        "finished_at": utc_now(), **values,
    }  # fmt: skip


def _requeue(**values: Any) -> dict[str, Any]:
    return {
        "state": "queued", "phase": "queued", "progress": 0.0, "eta_seconds": None, "owner": None,
        "lease_until": None, "hinted_at": db_now(), **values,
    }  # fmt: skip


def hold_for_publishing(session: Session, claim: Claim) -> bool:
    """Locks the row for the rest of the transaction if the claim still stands and nobody asked to cancel."""
    return _standing(session, _wanted(claim), {"phase": "publishing"}).holds


def succeed(session: Session, claim: Claim, result: dict[str, Any]) -> bool:
    """Ends the job well; the last thing that a publishing transaction does."""
    job = transition(
        session, _wanted(claim), _end("succeeded", progress=1.0, result=result), "succeeded", result=result
    )
    return job is not None


def fail(session: Session, claim: Claim, error: AppError) -> bool:
    """Ends the job with `error`, which is the client's or has come too often."""
    data = problem(error)
    return transition(session, mine(claim), _end("failed", error=data), "failed", error=data) is not None


def retry_later(session: Session, claim: Claim, error: AppError) -> Job | None:
    """Gives the job back after an error that may not come again; the attempt counts."""
    return _back(session, mine(claim), {}, error.code)


def give_back(session: Session, claim: Claim) -> Job | None:
    """Gives the job back because this worker stops; neither an attempt nor a crash is charged."""
    return _back(session, mine(claim), {"attempt": Job.attempt - 1}, "worker_stopping")


def _back(session: Session, where: Sequence[ColumnElement[bool]], values: Mapping[str, Any], reason: str) -> Job | None:
    """Queues a running job again, or cancels it where that was asked for meanwhile."""
    asked = [*where, Job.cancel_requested.is_(True)]
    if job := transition(session, asked, _end("cancelled", **values), "cancelled", reason=reason):
        return job
    return transition(session, where, _requeue(**values), "requeued", reason=reason)


def cancelled(session: Session, claim: Claim) -> bool:
    """Ends a running job that was asked to stop."""
    where = [*mine(claim), Job.cancel_requested.is_(True)]
    return transition(session, where, _end("cancelled"), "cancelled") is not None


def request_cancel(session: Session, job_id: str) -> Job | None:
    """Cancels a queued job at once and asks a running one to stop; None where it already ended."""
    locked = select(Job).where(Job.id == job_id).with_for_update()
    job = session.scalars(locked, execution_options={"populate_existing": True}).one()
    if job.state == "queued":
        return transition(session, [Job.id == job_id], _end("cancelled", cancel_requested=True), "cancelled")
    if job.state == "running" and not job.cancel_requested:
        return transition(session, [Job.id == job_id], {"cancel_requested": True}, "cancel_requested")
    return job if job.state == "running" else None


def lose(session: Session, job_id: str, epoch: int, *, max_crashes: int) -> Job | None:
    """Takes a job from a worker whose lease ran out: cancelled if so asked, failed at the cap, else queued again."""
    lost = [Job.id == job_id, Job.epoch == epoch, Job.state == "running", Job.lease_until < db_now()]
    crashes = {"crashes": Job.crashes + 1, "attempt": Job.attempt - 1}
    error = problem(
        InternalError(f"The worker was lost {max_crashes} time(s) while running it.", code="worker_crashed")
    )
    capped = [*lost, Job.crashes + 1 >= max_crashes, Job.cancel_requested.is_(False)]
    if job := transition(session, capped, _end("failed", error=error, **crashes), "failed", error=error):
        return job
    return _back(session, lost, crashes, "lease_lost")


def stall(session: Session, job_id: str, epoch: int, *, stall_seconds: float) -> Job | None:
    """Fails a job whose worker lives but has not advanced it for `stall_seconds`."""
    stuck = [
        Job.id == job_id, Job.epoch == epoch, Job.state == "running",
        Job.advanced_at < db_now() - stall_seconds, Job.lease_until >= db_now(),
    ]  # fmt: skip
    error = problem(InternalError(f"The job made no progress for {stall_seconds:g} seconds.", code="stalled"))
    return transition(session, stuck, _end("failed", error=error), "failed", error=error)
