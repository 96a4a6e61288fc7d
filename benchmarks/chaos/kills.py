"""Workers killed and frozen at random while jobs run; and the same without fences, which has to go wrong."""

import time

from benchmarks import servers
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.ledger import Ledger, audit, is_idle
from benchmarks.chaos.submitting import submitting
from benchmarks.processes import until

WORKERS = 4
PAUSE_SECONDS = 0.35
FREEZE = 0.25
#: A job may lose any number of leases here.
NEVER_TOO_MANY = 10_000
CALM_SECONDS = 180.0


def run(kind: str, *, jobs: int, kills: int, fenced: bool = True) -> tuple[Ledger, Fleet, float]:
    """The audit after `jobs` jobs under at least `kills` kills, the fleet that counted them, and the seconds."""
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        asked = servers.quick_settings(folder, url, broker_url, max_crashes=NEVER_TOO_MANY)
        if not fenced:
            servers.allow_two_versions_of_a_job(asked)
        with submitting(asked) as client:
            client.submit(jobs)
            with Fleet(settings=asked, size=WORKERS, fenced=fenced) as fleet:
                while fleet.kills < kills:
                    time.sleep(fleet.draw.uniform(0.5, 1.5) * PAUSE_SECONDS)
                    fleet.disturb(freeze=FREEZE, seconds=(1.2 * servers.LEASE_SECONDS, 3 * servers.LEASE_SECONDS))
                fleet.calm()
                until(lambda: is_idle(client.database), CALM_SECONDS)
            return audit(client.database), fleet, time.monotonic() - began
