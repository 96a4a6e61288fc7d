"""A real service on loopback, in a folder of its own, spoken to over HTTP alone; nothing of it stays behind."""

import csv
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.learning.data import Examples

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, STOP_SECONDS = 120, 60
#: Finer than the figures that are reported.
POLL_SECONDS = 0.01


class Service:
    """The requests that a suite makes. Every answer that is not a success raises."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def upload(self, name: str, examples: Examples[str]) -> str:
        """The id of the data set."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("text", "label"))
        writer.writerows(zip(examples.inputs, examples.labels, strict=True))
        files = {"file": (f"{name}.csv", text.getvalue().encode())}
        return str(self._send("POST", "/v1/datasets", files=files, data={"name": name})["id"])

    def run(self, *, seconds: float, **job: Any) -> dict[str, Any]:
        """The job as it ended, from submitting it until it is seen to be over.

        Raises `TimeoutError` where it is not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        answer = self._send("POST", "/v1/jobs", json=job)
        while answer["state"] in {"queued", "running"}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a {job['kind']} job was not over after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)
            answer = self._send("GET", f"/v1/jobs/{answer['id']}")
        return answer

    def predict(self, model: str, version: int, texts: list[str]) -> list[str]:
        """The labels, in the order of the texts."""
        path = f"/v1/models/{model}/versions/{version}/predict"
        return [str(item["label"]) for item in self._send("POST", path, json={"inputs": texts})["predictions"]]

    def _send(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._http.request(method, path, **arguments)
        if not response.is_success:
            raise RuntimeError(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
        return dict(response.json())


@contextmanager
def running_service(folder: Path, *, threads: int) -> Iterator[Service]:
    """A service whose data and log lie in `folder`; it is stopped when the block ends, however it ends."""
    port = _free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METAGRAFT_")}
    settings = {
        "METAGRAFT_DATA_DIR": str(folder / "data"),
        "METAGRAFT_HOST": "127.0.0.1",
        "METAGRAFT_PORT": str(port),
        "METAGRAFT_TORCH_THREADS": str(threads),
    }
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=ROOT, env=inherited | settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
            _wait_until_ready(process, http, folder / "service.log")
            yield Service(http)
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], http: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if http.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start; its log ends:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and then an end to whatever of its family is left."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, timeout=5)
    for straggler in left:
        straggler.kill()
