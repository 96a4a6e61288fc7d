"""Runs `metagraft serve` as a child, and makes sure that nothing of it is left afterwards."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from demo_client import DemoError

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 90
STOP_SECONDS = 45
#: What may come from the caller's environment; anything else could point the demo at a real database.
KEPT_SETTINGS = {"METAGRAFT_DEVICE", "METAGRAFT_TORCH_THREADS"}


@contextmanager
def running_service(folder: Path, log: Path) -> Iterator[str]:
    """The base URL of a service whose data lies in `folder`; it is stopped when the block ends, however it ends."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=ROOT,
            env=_environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the service in order
        )
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        _stop(process, folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path, port: int) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("METAGRAFT_") or k in KEPT_SETTINGS}
    return {
        **inherited,
        "METAGRAFT_HOST": "127.0.0.1",
        "METAGRAFT_PORT": str(port),
        "METAGRAFT_DATA_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
    }


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise DemoError(f"the service ended while starting, exit code {process.returncode}")
            if _answers(http):
                return
            time.sleep(0.2)
    raise DemoError(f"the service was not ready after {START_SECONDS} s")


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """SIGTERM, then a check that the whole family is gone. Raises `DemoError` when it is not."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave orphans
    try:
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        left = _alive(_family(folder))
        for straggler in left:
            straggler.kill()
        process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
    if code is None or left:
        names = [str(straggler.pid) for straggler in left]
        raise DemoError(f"the service did not stop by itself; killed process {', '.join(names)}")


def _family(folder: Path) -> list[psutil.Process]:
    """Every process that was given this data folder, whatever became of its parent."""
    return [process for process in psutil.process_iter() if _data_dir(process) == str(folder)]


def _data_dir(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("METAGRAFT_DATA_DIR")
    except (psutil.Error, OSError):
        return None


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running after a moment's grace; a dead process that nobody has reaped yet is not running."""
    _, left = psutil.wait_procs(family, timeout=3)
    return [process for process in left if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
