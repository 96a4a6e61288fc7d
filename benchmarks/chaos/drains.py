"""The API and the workers of `metagraft serve` are asked to stop, over and over, while clients use the service."""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import func, select

from app.db import Database
from app.settings import QUEUES
from app.tables import Job
from benchmarks import processes, servers
from benchmarks.chaos.ledger import Ledger, audit
from benchmarks.chaos.load import Load, make_steady_model, wait_until_idle

#: Processes that are asked: the API and one worker per queue.
ASKED = 1 + len(QUEUES)
#: What has to be done between two drains, so that each meets a service at work: requests, and jobs that succeed.
REQUESTS, JOBS = 30, 1
ROUND_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Drains:
    """How many processes were ended, what the clients saw, jobs that were charged for it, and the audit."""

    ended: int
    load: Load
    lost: list[str]
    charged: int
    ledger: Ledger
    seconds: float


def run(kind: str, rounds: int) -> Drains:
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url:
        settings = servers.quick_settings(folder, url, "", worker_concurrency=1)
        with processes.running(["serve"], folder, **processes.changed(settings)) as served:
            family, database = _Family(served.process.pid), Database(settings)
            make_steady_model(served.url)
            with Load(served.url) as load:
                for _ in range(rounds):
                    _work(load, database)
                    family.drain(folder / "serve.log")
                _work(load, database)
            wait_until_idle(database)
            drains = Drains(
                ended=family.ended,
                load=load,
                lost=load.lost(),
                charged=_charged(database),
                ledger=audit(database),
                seconds=time.monotonic() - began,
            )
            database.dispose()
            return drains


def _work(load: Load, database: Database) -> None:
    """Returns once the service has done something since the last drain."""
    requests, jobs = load.requests + REQUESTS, _succeeded(database) + JOBS
    if not processes.until(lambda: load.requests >= requests and _succeeded(database) >= jobs, ROUND_SECONDS):
        raise RuntimeError(f"the service stands still: {load.statuses}, {load.refused[-3:]}")


def _succeeded(database: Database) -> int:
    found = select(func.count()).select_from(Job).where(Job.state == "succeeded")
    with database.session(read_only=True) as session:
        return session.scalar(found) or 0


class _Family:
    """The API and the workers under one supervisor."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = psutil.Process(supervisor)
        self.ended = 0

    def drain(self, log: Path) -> None:
        """Asks all of them to stop, and returns when they have ended and others stand in their place."""
        asked = self._members()
        for member in asked:
            member.terminate()
        gone = processes.until(lambda: not any(_is_alive(member) for member in asked), ROUND_SECONDS)
        replaced = processes.until(lambda: len(self._members()) == ASKED, ROUND_SECONDS)
        if not (gone and replaced):
            raise RuntimeError(f"the processes were not replaced; the log ends:\n{log.read_text()[-2000:]}")
        self.ended += len(asked)

    def _members(self) -> list[psutil.Process]:
        return [child for child in self._supervisor.children() if _is_asked(child)]


def _is_asked(child: psutil.Process) -> bool:
    try:
        command = child.cmdline()
    except psutil.Error:
        return False
    return bool({"api", "worker", "worker.main"} & set(command))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _charged(database: Database) -> int:
    """Jobs with more than the one attempt that succeeded, or with a crash."""
    charged = select(func.count()).select_from(Job).where((Job.attempt > 1) | (Job.crashes > 0))
    with database.session(read_only=True) as session:
        return session.scalar(charged) or 0
