import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from sqlalchemy import update

from app.db import db_now
from app.dependencies import Services
from app.jobs import lifecycle
from app.settings import Settings
from app.tables import Job
from learning.errors import Cancelled
from tests.conftest import environment
from tests.jobs import claimed, event_types, job_row, queued, until
from worker.draining import Drain
from worker.lease import EXIT_ABANDONED, ClaimLost, Lease, WorkerStopping

#: A worker process whose job never calls progress.
DEAF = """
import json, sys, time
from app.db import Database
from app.jobs import lifecycle
from app.settings import Settings
from worker.draining import Drain
from worker.lease import Lease
settings, drain = Settings(), Drain()
database = Database(settings)
with database.transaction() as session:
    claim = lifecycle.claim(session, owner="deaf", lease_seconds=settings.lease_seconds, queues=["adapt"])
with Lease(database, settings, claim, drain):
    print(json.dumps(claim.job_id), flush=True)
    if "drain" in sys.argv:
        drain.begin(settings.drain_seconds)
    time.sleep(60)
"""


def _until_raised(lease: Lease, kind: type[Exception]) -> None:
    def go_on() -> None:
        for number in range(1000):
            lease.progress(number / 1000, "fitting")
            time.sleep(0.02)

    with pytest.raises(kind):
        go_on()


def test_lease_is_kept_when_the_job_runs_longer_than_it(services: Services, settings: Settings):
    short = settings.model_copy(update={"lease_seconds": 0.6, "heartbeat_seconds": 0.2})
    claim = claimed(services, queued(services), lease=0.6)
    with Lease(services.database, short, claim, Drain()):
        time.sleep(1.5)
        with services.database.transaction() as session:
            assert lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=5) is None
    assert job_row(services.database, claim.job_id).state == "running"


def test_progress_is_written_when_the_job_advances(services: Services, settings: Settings):
    claim = claimed(services, queued(services))
    with Lease(services.database, settings, claim, Drain()) as lease:
        lease.progress(0.25, "encoding")
        lease.progress(0.5, "fitting")
    job = job_row(services.database, claim.job_id)
    assert (job.progress, job.phase) == (0.5, "fitting")
    assert event_types(services.database, claim.job_id) == ["queued", "running", "progress", "progress"]


def test_progress_raises_when_a_cancel_was_asked_for(services: Services, settings: Settings):
    claim = claimed(services, queued(services))
    with Lease(services.database, settings, claim, Drain()) as lease:
        lease.progress(0.0, "encoding")
        with services.database.transaction() as session:
            lifecycle.request_cancel(session, claim.job_id)
        _until_raised(lease, Cancelled)


def test_progress_raises_when_another_worker_took_the_job(services: Services, settings: Settings):
    claim = claimed(services, queued(services))
    with Lease(services.database, settings, claim, Drain()) as lease:
        with services.database.transaction() as session:
            session.execute(update(Job).values(lease_until=db_now() - 1))
            lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=5)
        claimed(services, claim.job_id, owner="worker-2")
        _until_raised(lease, ClaimLost)
    assert job_row(services.database, claim.job_id).owner == "worker-2"


def test_progress_raises_when_the_drain_is_over(services: Services, settings: Settings):
    drain = Drain()
    claim = claimed(services, queued(services))
    with Lease(services.database, settings, claim, drain) as lease:
        lease.progress(0.0, "encoding")
        drain.begin(60)
        lease.progress(0.1, "fitting")
        drain.begin(0)
        lease.progress(0.2, "publishing")
    over = Drain()
    over.begin(0)
    unheard = Lease(services.database, settings, claim, over)
    with pytest.raises(WorkerStopping):
        unheard.progress(0.3, "fitting")


def _deaf(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DEAF, *arguments], env=environment(settings), stdout=subprocess.PIPE)


def _cancel(services: Services, job_id: str) -> None:
    with services.database.transaction() as session:
        lifecycle.request_cancel(session, job_id)


def _stall(services: Services, job_id: str) -> None:
    with services.database.transaction() as session:
        assert lifecycle.stall(session, job_id, 1, stall_seconds=-1) is not None


@pytest.mark.parametrize(("disturb", "state"), [(_cancel, "cancelled"), (_stall, "failed")])
def test_process_is_ended_when_its_job_does_not_listen(
    services: Services, settings: Settings, disturb: Callable[[Services, str], None], state: str
):
    queued(services)
    quick = settings.model_copy(update={"cancel_grace_seconds": 0.3})
    with _deaf(quick) as process:
        assert process.stdout is not None
        job_id = json.loads(process.stdout.readline())
        disturb(services, job_id)
        assert process.wait(timeout=90) == EXIT_ABANDONED
    assert job_row(services.database, job_id).state == state


def test_job_is_given_back_when_it_outlasts_the_drain(services: Services, settings: Settings):
    queued(services)
    with _deaf(settings.model_copy(update={"drain_seconds": 0.3}), "drain") as process:
        assert process.stdout is not None
        job_id = json.loads(process.stdout.readline())
        assert process.wait(timeout=90) == EXIT_ABANDONED
    job = until(lambda: job_row(services.database, job_id))
    assert (job.state, job.attempt, job.crashes) == ("queued", 0, 0)
