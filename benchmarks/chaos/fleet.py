"""Worker processes that can be killed and frozen at any moment, and replaced in milliseconds.

Each runs the worker's own runner, lease and sweeper on jobs of the database. Celery's pool is left out: it would take
seconds to start a process, and a kill every quarter of a second is what finds the gaps between two statements.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess

import numpy as np
import structlog
import torch

from app.jobs import lifecycle
from app.jobs.sweeper import Sweeper
from app.main import make_services
from app.settings import QUEUES, Settings
from app.tables import Job
from worker.draining import Drain
from worker.runner import Runner

PAUSE_SECONDS = 0.05
#: How long an interpreter that has everything loaded may take to be forked.
START_SECONDS = 60.0


def work(settings: Settings, fenced: bool = True, poison: str = "") -> None:
    """One worker process: runs whatever waits, until it is killed, which a job of the model `poison` does."""
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    if not fenced:
        lifecycle.mine = lambda claim: [Job.id == claim.job_id]
    if poison:
        _die_of(poison)
    services = make_services(settings)
    Sweeper(services).start()
    runner = Runner(services, QUEUES, Drain())
    while True:
        with contextlib.suppress(Exception):  # Celery's pool outlives a task that raises, too
            runner.run("")
        time.sleep(PAUSE_SECONDS)


def _die_of(model: str) -> None:
    run = Runner._run  # noqa: SLF001 - what happens to a process in the middle of a job is the point

    def run_or_die(self: Runner, claim: lifecycle.Claim) -> None:
        if claim.spec["model"] == model:
            os.kill(os.getpid(), signal.SIGKILL)
        run(self, claim)

    Runner._run = run_or_die  # type: ignore[method-assign]  # noqa: SLF001


@dataclass(eq=False)
class Fleet:
    """`size` workers, kept at that number."""

    settings: Settings
    size: int
    fenced: bool = True
    poison: str = ""
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    kills: int = 0
    freezes: int = 0
    _workers: list[ForkServerProcess] = field(default_factory=list)
    _frozen: dict[int, float] = field(default_factory=dict)

    def __enter__(self) -> "Fleet":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.chaos.fleet", "worker.handlers.registry"])
        self._context = context
        self.fill()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()

    def disturb(self, *, freeze: float, seconds: tuple[float, float]) -> None:
        """Kills a worker, or with probability `freeze` stops it for a time drawn from `seconds`."""
        self._thaw()
        self.fill()
        awake = [worker for worker in self._workers if worker.pid not in self._frozen]
        if awake and self.draw.random() < freeze:
            worker = awake[self.draw.integers(len(awake))]
            assert worker.pid is not None  # noqa: S101 - it was started
            os.kill(worker.pid, signal.SIGSTOP)
            self._frozen[worker.pid] = time.monotonic() + self.draw.uniform(*seconds)
            self.freezes += 1
            return
        worker = self._workers[self.draw.integers(len(self._workers))]
        self._frozen.pop(worker.pid or 0, None)
        worker.kill()
        worker.join()
        self.kills += 1
        self.fill()

    def calm(self) -> None:
        """Thaws and refills: nothing disturbs the rest."""
        self._frozen = dict.fromkeys(self._frozen, 0.0)
        self._thaw()
        self.fill()

    def _thaw(self) -> None:
        for pid, until in list(self._frozen.items()):
            if time.monotonic() >= until:
                del self._frozen[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def fill(self) -> None:
        """Replaces the workers that died."""
        self._workers = [worker for worker in self._workers if worker.is_alive()]
        while len(self._workers) < self.size:
            worker = self._context.Process(target=work, args=(self.settings, self.fenced, self.poison), daemon=True)
            worker.start()
            self._workers.append(worker)
