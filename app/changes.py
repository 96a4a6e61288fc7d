"""What every process remembers of the database, and how it notices that it is out of date.

A predict call needs its key, and the version that its model's alias names. Both hardly ever change, so a process
remembers them. Every transaction that changes one of the tables behind them counts up a row of `generations` as its
last act; a process reads that row at most twice a second, and forgets everything once it has grown. So a key that was
revoked, a version that was published and an alias that was moved hold for every process within `FRESH_SECONDS`, and for
the process that did it at once. So they do for a process that has told a client of something newer: whoever sees a job
end is answered by its version.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import event, text
from sqlalchemy.orm import ORMExecuteState, Session

if TYPE_CHECKING:
    from app.db import Database

#: What is remembered is trusted so long without a look at the database.
FRESH_SECONDS = 0.5
#: Beyond so many entries all are forgotten.
MAX_ENTRIES = 50_000

_WATCHED = frozenset({"api_keys", "models", "model_versions", "model_aliases"})
_CHANGED = "changed_what_is_remembered"
_READ = text("SELECT number FROM generations WHERE name = 'serving'")
_COUNT_UP = text(
    "INSERT INTO generations (name, number) VALUES ('serving', 1) "
    "ON CONFLICT (name) DO UPDATE SET number = generations.number + 1"
)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def count_changes(sessions: Any, changed: Callable[[], None]) -> None:
    """Makes every session of `sessions`, a sessionmaker, count what it changes; `changed` is called after commits."""

    def after_flush(session: Session, _context: Any) -> None:
        touched = (*session.new, *session.dirty, *session.deleted)
        if any(_is_watched(getattr(row, "__tablename__", "")) for row in touched):
            session.info[_CHANGED] = True

    def on_execute(state: ORMExecuteState) -> None:
        if state.is_select or not (state.is_insert or state.is_update or state.is_delete):
            return
        table = getattr(state.statement, "table", None)
        if _is_watched(str(getattr(table, "name", ""))):
            state.session.info[_CHANGED] = True

    def before_commit(session: Session) -> None:
        session.flush()
        if session.info.get(_CHANGED) and not session.in_nested_transaction():
            # The last act: the row's lock is held for the commit alone, and nothing is waited for while it is.
            session.execute(_COUNT_UP)

    def after_commit(session: Session) -> None:
        if not session.in_nested_transaction() and session.info.pop(_CHANGED, False):
            changed()

    event.listen(sessions, "after_flush", after_flush)
    event.listen(sessions, "do_orm_execute", on_execute)
    event.listen(sessions, "before_commit", before_commit)
    event.listen(sessions, "after_commit", after_commit)


def _is_watched(table: str) -> bool:
    return table in _WATCHED


class Remembered(Generic[Key, Value]):
    """Values read from the database, kept while its generation stands. Safe for threads."""

    def __init__(self, database: "Database", clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._values: dict[Key, Value] = {}
        self._generation: int | None = None
        self._looked_at = float("-inf")
        self._lock = threading.Lock()
        database.on_change(self.expire)

    def get(self, key: Key) -> Value | None:
        """What is remembered, without a look at the database; None where that is nothing, or no longer trusted."""
        return self._values.get(key) if self._clock() - self._looked_at < FRESH_SECONDS else None

    def get_or_read(self, key: Key, read: Callable[[Session], Value]) -> Value:
        """What is remembered and still holds, else what `read` reads. What `read` raises is not remembered."""
        with self._database.session(read_only=True) as session:
            generation = self._look(session)
            if key in self._values:
                return self._values[key]
            value = read(session)
        with self._lock:
            # In SQLite and in PostgreSQL a later statement may see a later state, never an earlier one: what was read
            # is at least as new as the generation, and a change since then makes the next look forget it.
            if generation == self._generation:
                if len(self._values) >= MAX_ENTRIES:
                    self._values = {}
                self._values[key] = value
        return value

    def expire(self) -> None:
        """Nothing is trusted before the next look."""
        self._looked_at = float("-inf")

    def _look(self, session: Session) -> int:
        began = self._clock()
        generation = int(session.execute(_READ).scalar() or 0)
        with self._lock:
            if generation != self._generation:
                self._generation, self._values = generation, {}
            self._looked_at = max(self._looked_at, began)
        return generation
