"""Mends what messages and processes lose. Every api and worker process has one; a lease lets one work at a time.

The lease only saves work: each change names the row's epoch, so two sweepers at once do no harm.
"""

import threading
from typing import Protocol
from uuid import uuid4

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from app import idempotency, tallies
from app.db import Database, db_now
from app.jobs import lifecycle
from app.queue import HintSender
from app.settings import QUEUES, Settings
from app.tables import Job, Lease

log = structlog.get_logger(__name__)

LEASE = "sweeper"
BATCH = 100
#: So many hints already waiting in a queue wake every worker there is.
ENOUGH_HINTS = 20


class Needs(Protocol):
    """The part of `Services` that sweeping uses: a process without encoders has no more."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def hints(self) -> HintSender: ...


class Sweeper:
    """A thread that looks at the queue every `sweep_seconds`."""

    def __init__(self, services: Needs) -> None:
        self._settings = services.settings
        self._database = services.database
        self._hints = services.hints
        self._owner = uuid4().hex
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the thread has ended, or after a moment if it hangs on a server that is away."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.sweep_seconds):
            try:
                if self.take_turn():
                    self.sweep()
            except Exception as error:  # noqa: BLE001 - a server that is away now may be back at the next turn
                log.warning("sweep_failed", reason=type(error).__name__, detail=str(error)[:200])

    def take_turn(self) -> bool:
        """Whether this process sweeps now: the lease was free, had run out, or is its own."""
        free = or_(Lease.until < db_now(), Lease.owner == self._owner)
        until = db_now() + 3 * self._settings.sweep_seconds
        take = update(Lease).where(Lease.name == LEASE, free).values(owner=self._owner, until=until)
        with self._database.transaction() as session:
            if session.scalar(take.returning(Lease.name)) is not None:
                return True
            is_missing = session.get(Lease, LEASE) is None
        if is_missing:
            self._insert_lease()
        return False

    def _insert_lease(self) -> None:
        try:
            with self._database.transaction() as session:
                session.add(Lease(name=LEASE, until=0.0))
        except IntegrityError:
            return  # another process was first

    def sweep(self) -> None:
        """One look at everything."""
        self._recover_lost()
        self._fail_stalled()
        self._send_hints_again()
        with self._database.transaction() as session:
            idempotency.expire(session, self._settings.idempotency_hours)

    def _recover_lost(self) -> None:
        lost = select(Job.id, Job.epoch).where(Job.state == "running", Job.lease_until < db_now()).limit(BATCH)
        with self._database.session(read_only=True) as session:
            rows = session.execute(lost).all()
        for job_id, epoch in rows:
            with self._database.transaction() as session:
                job = lifecycle.lose(session, job_id, epoch, max_crashes=self._settings.max_crashes)
                queue = job.queue if job is not None and job.state == "queued" else None
                if job is not None:
                    tallies.add(session, {tallies.Key(tallies.LEASE_LOSSES, (job.kind,)): 1})
            if job is not None:
                log.warning("lease_lost", job_id=job_id, epoch=epoch, crashes=job.crashes, state=job.state)
            if queue is not None:
                self._hints.send(job_id, queue)

    def _fail_stalled(self) -> None:
        seconds = self._settings.stall_seconds
        stuck = select(Job.id, Job.epoch).where(Job.state == "running", Job.advanced_at < db_now() - seconds)
        with self._database.session(read_only=True) as session:
            rows = session.execute(stuck.limit(BATCH)).all()
        for job_id, epoch in rows:
            with self._database.transaction() as session:
                if lifecycle.stall(session, job_id, epoch, stall_seconds=seconds) is not None:
                    log.warning("job_stalled", job_id=job_id, epoch=epoch)

    def _send_hints_again(self) -> None:
        """For rows that wait: their hint may have been lost with the broker, or with a worker that took it."""
        for queue in QUEUES:
            stale = self._take_stale(queue)
            # A broker that holds plenty of hints needs no more, or they would pile up while no worker is there.
            if stale and self._hints.waiting(queue) < ENOUGH_HINTS:
                for job_id in stale:
                    if not self._hints.send(job_id, queue):
                        return

    def _take_stale(self, queue: str) -> list[str]:
        """The rows longest without a hint, marked as hinted now."""
        before = db_now() - self._settings.rehint_seconds
        stale = select(Job.id).where(Job.state == "queued", Job.queue == queue, Job.hinted_at < before)
        stale = stale.order_by(Job.hinted_at).limit(ENOUGH_HINTS)
        with self._database.session(read_only=True) as session:
            ids = list(session.scalars(stale))
        if ids:
            with self._database.transaction() as session:
                session.execute(update(Job).where(Job.id.in_(ids)).values(hinted_at=db_now()))
        return ids
