"""A real service on loopback, in a folder of its own, spoken to over HTTP alone; nothing of it stays behind."""

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.learning.data import Examples

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
        return self.upload_file(name, f"{name}.csv", text.getvalue().encode())

    def upload_file(self, name: str, file: str, data: bytes) -> str:
        """The id of the data set that a file called `file` becomes."""
        files = {"file": (file, data)}
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
    settings = {"data_dir": folder / "data", "torch_threads": threads}
    with (
        processes.running(["serve"], folder, **settings) as api,
        httpx.Client(base_url=api.url, timeout=120, trust_env=False) as http,
    ):
        yield Service(http)
