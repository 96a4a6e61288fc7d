"""`metagraft serve` as a process: what it starts, and that nothing of it is left behind."""

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.jobs import ended, submit, until, upload


class Served:
    """One `metagraft serve` and the processes under it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("METAGRAFT_")}
        own = {
            "METAGRAFT_DATA_DIR": str(folder / "data"), "METAGRAFT_PORT": "0", "METAGRAFT_WARM_UP": "false",
            "METAGRAFT_DRAIN_SECONDS": "5", "METAGRAFT_LEASE_SECONDS": "2", "METAGRAFT_HEARTBEAT_SECONDS": "0.5",
            "METAGRAFT_SWEEP_SECONDS": "0.5", "METAGRAFT_REHINT_SECONDS": "1",
        }  # fmt: skip
        folder.mkdir(exist_ok=True)
        self.log = folder / f"serve-{len(list(folder.glob('serve-*')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                env=clean | own | variables,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.seen: dict[int, psutil.Process] = {}

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("Metagraft is ready at http://127.0.0.1:"), line
        return line.split()[-1]

    def processes(self) -> list[psutil.Process]:
        """Every descendant there is now; all that ever were seen are remembered."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= {process.pid: process for process in found}
        return found

    def child(self, word: str) -> psutil.Process:
        """The descendant whose command line has `word`."""

        def find() -> psutil.Process | None:
            return next((found for found in self.processes() if word in " ".join(_command(found))), None)

        found = until(find)
        assert found is not None
        return found

    def left(self) -> list[psutil.Process]:
        return [process for process in self.seen.values() if _is_alive(process)]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.processes()
            self.process.kill()
        for process in self.left():
            process.kill()
        self.process.communicate()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_gone(process: psutil.Process) -> bool:
    return not _is_alive(process)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    served = Served(folder)
    yield served
    served.stop()


def test_serve_runs_a_job_and_leaves_nothing_behind_when_told_to_stop(served: Served):
    with httpx.Client(base_url=served.url(), timeout=90) as client:
        job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
        assert ended(client, job["id"])["state"] == "succeeded"
    assert len(served.processes()) >= 6
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=90) == 0
    assert served.left() == []


def test_serve_leaves_nothing_behind_when_it_is_killed(served: Served):
    served.url()
    until(lambda: len(served.processes()) >= 6)
    served.process.kill()
    served.process.wait()
    until(lambda: served.left() == [], seconds=60)


def test_serve_restarts_what_dies_when_children_are_killed(served: Served):
    url = served.url()
    for word in ("valkey-server", "app.cli api", "worker.main"):
        victim = served.child(word)
        victim.kill()
        until(functools.partial(_is_gone, victim))
        with httpx.Client(base_url=url, timeout=90) as client:
            job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
            assert ended(client, job["id"])["state"] == "succeeded", word


def _refusal(folder: Path, **variables: str) -> str:
    """What a service that does not start says."""
    refused = Served(folder, **variables)
    try:
        assert refused.process.wait(timeout=120) == 1
        return refused.log.read_text()
    finally:
        refused.stop()


def test_serve_refuses_when_another_one_has_the_folder(served: Served, folder: Path):
    served.url()
    assert f"Another `metagraft serve` (process {served.process.pid})" in _refusal(folder)


def test_serve_refuses_when_the_host_is_public_and_there_is_no_key(folder: Path):
    assert "a key is needed" in _refusal(folder, METAGRAFT_HOST="0.0.0.0")


def test_serve_refuses_when_the_port_is_taken(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Cannot listen on 127.0.0.1 port {port}" in _refusal(folder, METAGRAFT_PORT=port)
