"""The connections of one API process: how many there are, which goes when there are too many, what was refused."""

import asyncio
import resource
import time
from collections import Counter
from contextlib import suppress
from typing import Protocol

from app.settings import Settings

#: How often each connection's clock is looked at, in seconds.
TICK_SECONDS = 0.25
#: Beyond the limit so many more are told so; the rest is cut off without a word.
MAX_SURPLUS = 64
#: Files the process needs beside its sockets: database connections, blobs, caches.
OTHER_FILES = 256
FEWEST_CONNECTIONS = 16


class Connection(Protocol):
    """What the registry knows of a connection."""

    @property
    def waits_since(self) -> float | None:
        """When (monotonic seconds) it began to wait for its client; None while it is being answered."""
        ...

    @property
    def is_sending_body(self) -> bool: ...

    def cut(self) -> None:
        """Ends it at once."""
        ...

    def look(self, now: float) -> None:
        """Ends it where its client has used up its time."""
        ...


class Connections:
    """The connections that are open. All of it runs in the event loop's thread; /metrics only reads."""

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.max_connections
        self.refused: Counter[str] = Counter()
        """By reason, since the start."""
        self._open: set[Connection] = set()
        self._surplus: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open) + len(self._surplus)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room, which is made by cutting off whoever has kept the service waiting longest.

        False where every connection is being answered: this one should be told to come back later, or was cut off.
        """
        self._start_looking()
        if len(self._open) < self.limit or self._make_room():
            self._open.add(connection)
            return True
        self.refused["overload"] += 1
        if len(self._surplus) >= MAX_SURPLUS:
            connection.cut()
        else:
            self._surplus.add(connection)
        return False

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._surplus.discard(connection)

    def _make_room(self) -> bool:
        waiting = [(each.is_sending_body, each.waits_since, each) for each in self._open]
        # Idle and half-sent heads first: who sends a body has shown what it came for.
        found = min(
            ((sending, since, each) for sending, since, each in waiting if since is not None),
            key=lambda entry: entry[:2],
            default=None,
        )
        if found is None:
            return False
        self.refused["made_room"] += 1
        self.forget(found[2])
        found[2].cut()
        return True

    def _start_looking(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._open or self._surplus:
            self._start_looking()  # first, so that the next look comes whatever this one meets
        now = time.monotonic()
        for connection in [*self._open, *self._surplus]:
            connection.look(now)


def room_for(wanted: int) -> int:
    """How many of `wanted` connections the process's limit of open files allows, once raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + OTHER_FILES
    if soft < needed:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return min(wanted, max(FEWEST_CONNECTIONS, soft - OTHER_FILES))
