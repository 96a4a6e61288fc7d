"""One pool process: its services are built once, before its first job."""

import functools
import signal
from typing import TYPE_CHECKING

from app.observability import configure_logging
from app.settings import Settings
from worker.draining import Drain

if TYPE_CHECKING:
    from worker.runner import Runner

_drain = Drain()


def start() -> None:
    """Called once in every pool process, which is a fresh interpreter."""
    settings = Settings()
    configure_logging(settings)
    _runner()


@functools.cache
def _runner() -> "Runner":
    # Torch comes with these; the main process, which only dispatches, never loads it.
    from app.main import make_services  # noqa: PLC0415
    from worker.runner import Runner  # noqa: PLC0415

    services = make_services(Settings())
    services.inference.warm_up()
    return Runner(services, services.settings.queues, _drain)


def run(job_id: str) -> None:
    """Runs the job, and whatever else waits."""
    runner = _runner()
    # Set here, because billiard sets its own handler after `start`; that one ends an idle process, which is right.
    signal.signal(signal.SIGTERM, lambda *_: _drain.begin(runner.drain_seconds))
    if not _drain.is_on:
        runner.run(job_id)
