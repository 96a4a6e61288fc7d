"""Parts of a running job that any worker may take, so that a large batch prediction is shared (docs/adr/0017).

One worker runs the job as it runs any other and ends it; here it is called the leader. It plans the parts, works on
them itself, and takes over what others left. Others only help: they take parts that nobody has had, under a lease, and
whatever happens to them costs their part. So a job needs no helper, and keeps every promise of a job without parts.

A part is named by (job, number, epoch, owner): once it was taken again or its job ended, no UPDATE of an older claim
matches. Rows of parts exist while their job has not ended; with them the blobs of its parts are held,
which the leader of a job that succeeded deletes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.db import db_now
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim, Standing
from app.tables import Job, JobPart


@dataclass(frozen=True, kw_only=True)
class PartClaim(Claim):
    """The right to work on one part of a job; `owner` and `epoch` are the part's."""

    number: int
    first_row: int
    n_rows: int


def plan(session: Session, leader: Claim, ranges: Sequence[range]) -> bool:
    """Makes a part of each range of rows, unless the job has parts already; whether the claim stands."""
    if not lifecycle.holds(session, leader):
        return False
    if not session.scalar(select(func.count()).where(JobPart.job_id == leader.job_id)):
        for number, rows in enumerate(ranges):
            session.add(JobPart(job_id=leader.job_id, number=number, first_row=rows.start, n_rows=len(rows)))
    return True


def take(session: Session, leader: Claim) -> PartClaim | None:
    """For the leader the first part that is neither done nor in the hands of a helper; None where there is none."""
    if not lifecycle.holds(session, leader):
        return None
    # Without a lease it is a leader's, and this is the only one.
    free = or_(JobPart.owner.is_(None), JobPart.lease_until.is_(None), JobPart.lease_until < db_now())
    mine = select(JobPart).where(JobPart.job_id == leader.job_id, JobPart.blob.is_(None), free)
    part = session.scalar(mine.order_by(JobPart.number).limit(1).with_for_update(skip_locked=True))
    return None if part is None else _given(session, part, leader, leader.owner, None)


def help_out(session: Session, *, owner: str, lease_seconds: float, queues: Sequence[str]) -> PartClaim | None:
    """For a helper a part that nobody has had, of any running job of `queues`; None where there is none."""
    free = (
        select(JobPart, Job)
        .join(Job, Job.id == JobPart.job_id)
        .where(Job.state == "running", Job.cancel_requested.is_(False), Job.queue.in_(queues))
        .where(JobPart.blob.is_(None), JobPart.owner.is_(None), JobPart.is_suspect.is_(False))
        .order_by(JobPart.job_id, JobPart.number)
    )
    found = session.execute(free.limit(1).with_for_update(of=JobPart, skip_locked=True)).one_or_none()
    if found is None:
        return None
    part, job = found
    whole = Claim(
        job_id=job.id, project_id=job.project_id, kind=job.kind, queue=job.queue, spec=job.spec, epoch=job.epoch,
        owner=owner, attempt=job.attempt,
    )  # fmt: skip
    return _given(session, part, whole, owner, lease_seconds)


def _given(session: Session, part: JobPart, job: Claim, owner: str, lease_seconds: float | None) -> PartClaim:
    lease: Any = None if lease_seconds is None else db_now() + lease_seconds
    part.owner, part.epoch, part.lease_until, part.rows_done = owner, part.epoch + 1, lease, 0
    session.flush()
    return PartClaim(
        job_id=job.job_id, project_id=job.project_id, kind=job.kind, queue=job.queue, spec=job.spec,
        attempt=job.attempt, owner=owner, epoch=part.epoch, number=part.number, first_row=part.first_row,
        n_rows=part.n_rows,
    )  # fmt: skip


def _mine(part: PartClaim) -> list[ColumnElement[bool]]:
    wanted = exists().where(Job.id == part.job_id, Job.cancel_requested.is_(False))
    return [
        JobPart.job_id == part.job_id, JobPart.number == part.number, JobPart.epoch == part.epoch,
        JobPart.owner == part.owner, JobPart.blob.is_(None), wanted,
    ]  # fmt: skip


def _change(session: Session, part: PartClaim, **values: Any) -> bool:
    changed = update(JobPart).where(*_mine(part)).values(**values).returning(JobPart.number)
    return session.scalar(changed, execution_options={"synchronize_session": False}) is not None


def heartbeat(session: Session, part: PartClaim, *, lease_seconds: float) -> Standing:
    """Extends a helper's lease. A part whose job was cancelled is no longer held."""
    return Standing(_change(session, part, lease_until=db_now() + lease_seconds))


def advance(
    session: Session, part: PartClaim, *, progress: float, phase: str, eta_seconds: float | None, has_event: bool
) -> Standing:
    """Writes how many rows are done; phase, time left and events are the job's."""
    del phase, eta_seconds, has_event
    return Standing(_change(session, part, rows_done=round(progress * part.n_rows)))


def give_back(session: Session, part: PartClaim) -> bool:
    """Leaves the part to whoever comes, because this worker stops."""
    return _change(session, part, owner=None, lease_until=None, rows_done=0)


def cancelled(session: Session, part: PartClaim) -> bool:
    """Nothing: a cancel ends the job, and its parts go with it."""
    del session, part
    return False


def suspect(session: Session, part: PartClaim) -> bool:
    """Leaves the part to the leader, because it made a helper fail: what is wrong is then the job's own error."""
    return _change(session, part, owner=None, lease_until=None, rows_done=0, is_suspect=True)


def finish(session: Session, part: PartClaim, *, blob: str, errors: int) -> bool:
    """Names the part's file, which the caller holds; whether the claim still stood."""
    values = {"blob": blob, "errors": errors, "rows_done": part.n_rows, "owner": None, "lease_until": None}
    return _change(session, part, **values)


def rows_done(session: Session, job_id: str) -> int:
    """Of all parts together."""
    return int(session.scalar(select(func.sum(JobPart.rows_done)).where(JobPart.job_id == job_id)) or 0)


def finished(session: Session, job_id: str) -> list[JobPart] | None:
    """Every part in order; None while one is not done."""
    found = list(session.scalars(select(JobPart).where(JobPart.job_id == job_id).order_by(JobPart.number)))
    return found if found and all(part.blob is not None for part in found) else None
