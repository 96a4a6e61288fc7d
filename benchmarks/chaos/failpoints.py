"""Each fault at each named place of a job's life: the job has to reach its one right end all the same."""

import contextlib
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.sharedctypes import Synchronized

from sqlalchemy import select

from app.settings import Settings
from app.tables import Job
from benchmarks import servers
from benchmarks.chaos import faults, fleet
from benchmarks.chaos.ledger import Ledger, audit, is_idle
from benchmarks.chaos.submitting import Client, submitting
from benchmarks.processes import until

END_SECONDS = 60.0
#: A heartbeat has to come before a small job ends.
HASTE = {"lease_seconds": 0.6, "heartbeat_seconds": 0.1, "sweep_seconds": 0.1}


def armed_worker(settings: Settings, place: str, fault: str, struck: "Synchronized[int]") -> None:
    faults.arm(faults.PLACES[place], fault, settings, struck)
    fleet.work(settings, fenced=True)


def armed_api(
    settings: Settings, place: str, fault: str, struck: "Synchronized[int]", answered: "Synchronized[int]"
) -> None:
    """Submits one job; `answered` is the status, 0 where the process died."""
    with submitting(settings) as client:
        faults.arm(faults.PLACES[place], fault, settings, struck)
        answered.value = int(client.try_to_submit().status_code)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault at one place: whether it struck, what the API answered if it was the API's, how many jobs ended how."""

    place: str
    fault: str
    struck: bool
    status: int | None
    states: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """The job succeeded; only one that was never acknowledged may be absent."""
        if not self.struck:
            return False
        acknowledged = self.status is None or self.status == 202
        return set(self.states) <= {"succeeded"} and (len(self.states) == 1 or not (acknowledged or self.states))


class Trial:
    """Runs cases one after another on one database."""

    def __init__(self, asked: Settings, client: Client) -> None:
        self._settings, self._client = asked, client
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.chaos.failpoints", "worker.handlers.registry"])

    def run(self, place: str, fault: str) -> Case:
        before = self._jobs()
        struck: Synchronized[int] = self._context.Value("i", 0)
        answered: Synchronized[int] = self._context.Value("i", 0)
        where = faults.PLACES[place]
        if where.by == "api":
            self._end(self._start(armed_api, place, fault, struck, answered))
        else:
            self._client.submit(1, texts=where.texts)
            if where.by == "sweeper":
                self._lose_it()
            worker = self._start(armed_worker, place, fault, struck)
            until(lambda: not worker.is_alive() or self._is_over(struck), END_SECONDS)
            if worker.is_alive():
                worker.kill()
            worker.join()
        self._finish()
        after = self._jobs()
        states = tuple(state for job_id, state in after.items() if job_id not in before)
        status = answered.value if where.by == "api" else None
        return Case(place=place, fault=fault, struck=bool(struck.value), status=status, states=states)

    def _is_over(self, struck: "Synchronized[int]") -> bool:
        return bool(struck.value) and self._is_idle()

    def _is_idle(self) -> bool:
        with contextlib.suppress(Exception):  # the fault may have ended this process's connections too
            return is_idle(self._client.database)
        return False

    def _lose_it(self) -> None:
        """A worker claims the job and is killed."""
        struck: Synchronized[int] = self._context.Value("i", 0)
        self._end(self._start(armed_worker, "loading", "SIGKILL", struck))

    def _finish(self) -> None:
        """An untroubled worker brings what is left to its end."""
        if self._is_idle():
            return
        worker = self._start(fleet.work)
        until(self._is_idle, END_SECONDS)
        worker.kill()
        worker.join()

    def _start(self, target: object, *arguments: object) -> ForkServerProcess:
        worker = self._context.Process(target=target, args=(self._settings, *arguments), daemon=True)  # type: ignore[arg-type]
        worker.start()
        return worker

    def _end(self, process: ForkServerProcess) -> None:
        process.join(END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()

    def _jobs(self) -> dict[str, str]:
        with self._client.database.session(read_only=True) as session:
            return {job.id: job.state for job in session.scalars(select(Job))}


def run(kind: str, places: list[str]) -> tuple[list[Case], Ledger, float]:
    """Every fault at each of `places`; the audit of all jobs together; seconds."""
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        asked = servers.quick_settings(folder, url, broker_url, **HASTE)
        with submitting(asked) as client:
            trial = Trial(asked, client)
            cases = [trial.run(place, fault) for place in places for fault in faults.FAULTS]
            return cases, audit(client.database), time.monotonic() - began
