"""The processes that parse untrusted bytes: how many there are at once, and how one is started."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Unavailable
from app.settings import Settings

#: Uploads that wait for a process, for each that has one; more would take the threads that answer other requests.
_WAITING = 3


class Children:
    """Places for the children of one API process. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.upload_wait_seconds
        self._running = threading.BoundedSemaphore(settings.upload_processes)
        self._known = threading.BoundedSemaphore((1 + _WAITING) * settings.upload_processes)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Waits until one more child may run, and holds its place.

        Raises:
            Unavailable: (uploads_busy) too many others wait, or none of them ended in time.
        """
        if not self._known.acquire(blocking=False):
            raise _busy()
        try:
            if not self._running.acquire(timeout=self._seconds):
                raise _busy()
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._known.release()


def _busy() -> Unavailable:
    message = "Too many uploads are being read at this moment; send it again in a while."
    return Unavailable(message, code="uploads_busy", headers={"Retry-After": "10"})


def cannot_start() -> Unavailable:
    """The error where the system lets us start no process."""
    message = "No process could be started to read the upload; send it again in a while."
    return Unavailable(message, code="uploads_busy", headers={"Retry-After": "10"})


def command(module: str, *arguments: object) -> list[str]:
    """The command line of a module of ours."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """What a child may know: the service's settings, secrets among them, are none of its business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("METAGRAFT_")} | more
