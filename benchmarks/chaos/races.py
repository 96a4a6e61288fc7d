"""What happens at the same moment: cancelling and finishing, fifty equal submissions, a job that kills its worker."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from app.settings import Settings
from app.tables import Job
from benchmarks import servers
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.ledger import Ledger, audit, is_idle
from benchmarks.chaos.submitting import Client, submitting
from benchmarks.processes import until

WORKERS = 2
END_SECONDS = 120.0
POISON = "poison"


@dataclass(frozen=True, kw_only=True)
class Race:
    """The audit, how many jobs ended in each state, and codes of the failed ones."""

    ledger: Ledger
    states: Counter[str]
    errors: Counter[str]
    seconds: float


def cancelling(kind: str, pairs: int) -> Race:
    """Each job is cancelled at some moment around its end."""
    draw = np.random.default_rng(0)

    def race(asked: Settings, client: Client) -> None:
        with Fleet(settings=asked, size=WORKERS):
            for _ in range(pairs):
                job_id = str(client.try_to_submit().json()["id"])
                time.sleep(draw.uniform(0.0, 0.6))
                assert client.cancel(job_id) in {200, 202, 409}  # noqa: S101 - anything else ends the benchmark
            until(lambda: is_idle(client.database), END_SECONDS)

    return _run(kind, race)


def submitting_at_once(kind: str, at_once: int) -> Race:
    """As many submissions with one Idempotency-Key."""

    def race(asked: Settings, client: Client) -> None:
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda _: client.try_to_submit(key="the same").status_code, range(at_once)))
        assert set(answers) <= {202, 409}, answers  # noqa: S101
        assert 202 in answers  # noqa: S101
        with Fleet(settings=asked, size=1):
            until(lambda: is_idle(client.database), END_SECONDS)

    return _run(kind, race)


def poisoning(kind: str, others: int) -> Race:
    """One job that kills every worker that takes it, among `others`."""

    def race(asked: Settings, client: Client) -> None:
        client.try_to_submit(model=POISON)
        client.submit(others)
        with Fleet(settings=asked, size=WORKERS, poison=POISON) as fleet:

            def is_over() -> bool:
                fleet.fill()
                return is_idle(client.database)

            until(is_over, END_SECONDS)

    return _run(kind, race, max_crashes=12)


def _run(kind: str, race: Callable[[Settings, Client], None], **changes: int) -> Race:
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        asked = servers.quick_settings(folder, url, broker_url, **changes)
        with submitting(asked) as client:
            race(asked, client)
            with client.database.session(read_only=True) as session:
                jobs = list(session.scalars(select(Job)))
            return Race(
                ledger=audit(client.database),
                states=Counter(job.state for job in jobs),
                errors=Counter(str((job.error or {}).get("code")) for job in jobs if job.state == "failed"),
                seconds=time.monotonic() - began,
            )
