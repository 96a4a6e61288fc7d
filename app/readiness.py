"""Whether this process can serve requests: each thing it needs is asked, all at once and none for long."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog
from sqlalchemy import text

from app.dependencies import Services
from app.errors import Unavailable
from app.migrate import is_current

#: A load balancer asks every few seconds and gives up soon.
PATIENCE_SECONDS = 3.0
#: What is only slow to be missed: rows are the queue of record, so a missing broker delays jobs and loses none.
OPTIONAL = frozenset({"broker"})

log = structlog.get_logger(__name__)

_REASONS: Mapping[str, str] = {
    "database": "The database does not answer.",
    "migrations": "The database schema is not the one this version needs: run metagraft migrate.",
    "storage": "The storage cannot be reached or written to.",
    "broker": "The broker cannot be reached; jobs start later than usual.",
}
_UNKNOWN_SCHEMA = "Not known while the database does not answer."
_SLOW = " (no answer within {seconds:g} s)"


class Readiness:
    """The checks of one process. A check that hangs is not asked a second time until it ends."""

    def __init__(self, services: Services, patience: float = PATIENCE_SECONDS) -> None:
        self._checks: Mapping[str, Callable[[], None]] = {
            "database": lambda: _ping(services),
            "migrations": lambda: _check_schema(services),
            "storage": services.storage.check,
            "broker": services.hints.check,
        }
        self._patience = patience
        self._asked: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=len(self._checks), thread_name_prefix="readiness")

    @property
    def names(self) -> list[str]:
        return list(self._checks)

    def failures(self) -> dict[str, str]:
        """What is wrong, by check; the reason is for a stranger's eyes, the log has the rest."""
        asked = self._ask()
        ended, _ = wait(asked.values(), timeout=self._patience)
        return self._told({name: _error(future) if future in ended else None for name, future in asked.items()})

    def _ask(self) -> dict[str, "Future[None]"]:
        """A check under way for each name: a new one, or the one that has not ended yet."""
        with self._lock:
            hanging = {name: future for name, future in self._asked.items() if not future.done()}
            self._asked = {
                name: hanging[name] if name in hanging else self._threads.submit(check)
                for name, check in self._checks.items()
            }
            return dict(self._asked)

    def _told(self, errors: Mapping[str, str | None]) -> dict[str, str]:
        """`errors`: by check, "" where all is well, None where no answer came."""
        found: dict[str, str] = {}
        for name, error in errors.items():
            if error == "":
                continue
            log.warning("check_failed", check=name, reason=error or "no answer")
            found[name] = _REASONS[name] + (_SLOW.format(seconds=self._patience) if error is None else "")
        if "database" in found and "migrations" in found:
            found["migrations"] = _UNKNOWN_SCHEMA
        return found

    def close(self) -> None:
        """Waits for no check that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _error(future: "Future[None]") -> str:
    error = future.exception()
    return "" if error is None else str(error) or type(error).__name__


def _ping(services: Services) -> None:
    with services.database.session(read_only=True) as session:
        session.execute(text("SELECT 1"))


def _check_schema(services: Services) -> None:
    if not is_current(services.settings, services.database.engine):
        raise Unavailable("outstanding migrations")
