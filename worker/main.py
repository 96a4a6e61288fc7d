"""The worker's root: `python -m worker.main`. Celery's prefork pool with fresh interpreters, and the sweeper."""

import logging
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from billiard.process import active_children
from celery import Celery
from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down

from app.db import Database
from app.jobs.sweeper import Sweeper
from app.observability import configure_logging
from app.queue import HintSender, make_celery
from app.settings import Settings
from worker import tasks

log = structlog.get_logger(__name__)

#: A fresh interpreter that imports torch on a busy machine takes its time.
PROCESS_START_SECONDS = 180


@dataclass(frozen=True, kw_only=True)
class SweeperServices:
    """What the main process needs: the database and the broker, no encoders."""

    settings: Settings
    database: Database
    hints: HintSender


def make_worker(settings: Settings) -> Celery:
    """Celery configured to run jobs. `spawn`, because CUDA cannot be initialised again after a fork."""
    celery = make_celery(settings)
    celery.conf.update(
        include=[tasks.__name__],
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_concurrency=settings.worker_concurrency,
        worker_proc_alive_timeout=PROCESS_START_SECONDS,
        # A hint that one busy worker holds back would not wake the idle one beside it.
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        # Jobs do not depend on the broker once they run.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_max_retries=None,
    )
    return celery


def quieten_children(**_: object) -> None:
    """Pool processes announce themselves in a format of their own; only their warnings are worth that."""
    os.environ["_MP_FORK_LOGLEVEL_"] = str(logging.WARNING)


def drain_children(**_: object) -> None:
    """Tells every pool process to take no more jobs (worker/process.py); Celery waits for them to end."""
    for child in active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGTERM)


def _ready(sweeper: Sweeper) -> Callable[..., None]:
    def ready(**_: object) -> None:
        sweeper.start()
        # Ctrl-C in a terminal means what SIGTERM means.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
        log.info("worker_ready")

    return ready


def main() -> None:
    settings = Settings()
    configure_logging(settings)
    database, hints = Database(settings), HintSender(settings)
    sweeper = Sweeper(SweeperServices(settings=settings, database=database, hints=hints))
    ready = _ready(sweeper)
    celeryd_after_setup.connect(quieten_children)
    worker_ready.connect(ready)
    worker_shutting_down.connect(drain_children)

    def stop(**_: object) -> None:
        sweeper.stop()
        database.dispose()

    worker_shutdown.connect(stop)
    _run(make_worker(settings), settings)


def _run(celery: Celery, settings: Settings) -> Any:
    # Its reason is pickled messages, and only JSON is accepted here.
    warnings.filterwarnings("ignore", message=".*superuser privileges.*")
    names = settings.worker_queues
    return celery.worker_main([
        "--quiet", "worker", f"--queues={names}", f"--hostname={names.replace(',', '-')}-{os.getpid()}@%h",
        f"--loglevel={settings.log_level}", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
