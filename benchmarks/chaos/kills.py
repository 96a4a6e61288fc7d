"""Workers killed and frozen at random while jobs run; and the same without fences, which has to go wrong."""

import time
from pathlib import Path
from typing import Any

from app.settings import Settings
from benchmarks.chaos import servers
from benchmarks.chaos.fleet import Fleet, until
from benchmarks.chaos.ledger import Ledger, audit, is_idle
from benchmarks.chaos.submitting import submitting

WORKERS = 4
PAUSE_SECONDS = 0.35
FREEZE = 0.25
LEASE_SECONDS = 1.0
CALM_SECONDS = 180.0


def settings(folder: Path, url: str, broker_url: str, **changes: Any) -> Settings:
    """Timings in which a lost lease shows after a second."""
    timings: dict[str, Any] = {
        "lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 0.3, "sweep_seconds": 0.2, "rehint_seconds": 1.0,
        "cancel_grace_seconds": 2.0, "max_crashes": 10_000, "pool_size": 2,
    }  # fmt: skip
    where: dict[str, Any] = {"data_dir": folder / "data", "database_url": url, "broker_url": broker_url}
    return Settings(**where | timings | changes, warm_up=False, log_level="ERROR")


def run(kind: str, *, jobs: int, kills: int, fenced: bool = True) -> tuple[Ledger, Fleet, float]:
    """The audit after `jobs` jobs under at least `kills` kills, the fleet that counted them, and the seconds."""
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        asked = settings(folder, url, broker_url)
        if not fenced:
            servers.allow_two_versions_of_a_job(asked)
        with submitting(asked) as client:
            client.submit(jobs)
            with Fleet(settings=asked, size=WORKERS, fenced=fenced) as fleet:
                while fleet.kills < kills:
                    time.sleep(fleet.draw.uniform(0.5, 1.5) * PAUSE_SECONDS)
                    fleet.disturb(freeze=FREEZE, seconds=(1.2 * LEASE_SECONDS, 3 * LEASE_SECONDS))
                fleet.calm()
                until(lambda: is_idle(client.database), CALM_SECONDS)
            return audit(client.database), fleet, time.monotonic() - began
