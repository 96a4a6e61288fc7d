"""The running API that files are sent to, and what they do to it: memory, processes, files left on disk."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil

from app.settings import Settings
from benchmarks import processes, servers

#: Nothing here takes so long: what has not answered by then hangs.
HUNG_SECONDS = 300.0
_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Target:
    """A real `metagraft api` on loopback, over databases of its own."""

    api: processes.Api
    settings: Settings

    def client(self) -> httpx.Client:
        """One with connections of its own; it waits until an answer must be said to hang."""
        return httpx.Client(base_url=self.api.url, timeout=HUNG_SECONDS, trust_env=False)

    def is_alive(self) -> bool:
        with suppress(httpx.TransportError), self.client() as client:
            return self.api.process.poll() is None and client.get("/healthz").is_success
        return False

    def children_left(self) -> int:
        """Processes of the API that are still there after a while in which no request ran."""
        process = psutil.Process(self.api.process.pid)
        processes.until(lambda: not process.children(recursive=True), processes.STOP_SECONDS)
        return len(process.children(recursive=True))

    def temporary_files(self) -> set[Path]:
        return _files(self.settings.data_dir / "tmp")

    def stored_files(self) -> set[Path]:
        return _files(Path(self.settings.resolved_storage_url))


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@contextmanager
def target(kind: str) -> Iterator[Target]:
    """An API over a database of this kind."""
    with (
        servers.scratch() as folder,
        servers.database(kind, folder) as url,
        servers.broker(folder) as broker_url,
    ):
        settings = servers.quick_settings(folder, url, broker_url)
        with processes.running_api(settings, folder) as api:
            yield Target(api=api, settings=settings)


class MemoryWatch:
    """Samples the resident bytes of a process and all its children, from a thread. A context manager."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch")
        self.start_bytes = self._resident()
        self.most_bytes = self.start_bytes
        self.now = ""
        """What is being done; whoever does it says so here."""
        self.most_during = ""

    @property
    def growth_bytes(self) -> int:
        """The most at any sample, less what there was at the start."""
        return self.most_bytes - self.start_bytes

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            now, resident = self.now, self._resident()
            if resident > self.most_bytes:
                self.most_bytes, self.most_during = resident, now

    def _resident(self) -> int:
        total = 0
        with suppress(psutil.NoSuchProcess):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total
