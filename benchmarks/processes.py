"""Processes of the service on loopback: started, waited for, and ended with their whole family."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS, STOP_SECONDS = 120.0, 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Api:
    """A running API: where it answers, and its first process."""

    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings of Metagraft and no others; None leaves one at its default."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METAGRAFT_")}
    given = {f"METAGRAFT_{name.upper()}": _text(value) for name, value in settings.items() if value is not None}
    return inherited | given


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def changed(settings: Settings) -> dict[str, object]:
    """The fields of `settings` that were given, for `environment`."""
    return settings.model_dump(mode="json", exclude_unset=True)


def start(command: Sequence[str], settings: Mapping[str, object], log: Path) -> subprocess.Popen[bytes]:
    """`metagraft COMMAND` in a process group of its own; its output goes to the end of `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "app.cli", *command],
            cwd=ROOT, env=environment(**settings), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, and after `seconds` an end to whatever of its family is left."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=5)
    for straggler in left:
        with suppress(psutil.NoSuchProcess):
            straggler.kill()


@contextmanager
def running(command: Sequence[str], folder: Path, **settings: object) -> Iterator[Api]:
    """`metagraft COMMAND`, ready, at a port of its own; the log lies in `folder`. It is stopped when the block ends.

    Raises:
        RuntimeError: it was not ready in time, with the end of its log.
    """
    port, log = free_port(), folder / f"{command[0]}.log"
    process = start(command, {**settings, "host": "127.0.0.1", "port": port}, log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(process, url, log)
        yield Api(url=url, process=process)
    finally:
        stop(process)


def running_api(settings: Settings, folder: Path) -> AbstractContextManager[Api]:
    """`metagraft api` with `settings`."""
    return running(["api"], folder, **changed(settings))


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns once /readyz says so."""

    def is_ready() -> bool:
        with suppress(httpx.TransportError):
            return process.poll() is not None or httpx.get(f"{url}/readyz", trust_env=False).is_success
        return False

    if not until(is_ready, START_SECONDS) or process.poll() is not None:
        raise RuntimeError(f"the service did not start; its log ends:\n{log.read_text(errors='replace')[-2000:]}")
