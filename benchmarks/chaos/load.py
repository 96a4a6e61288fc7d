"""Clients of a running API that upload, submit, look and predict over and over, and write down every answer."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.db import Database
from benchmarks.chaos.ledger import is_idle
from benchmarks.chaos.submitting import table_of
from benchmarks.processes import until

#: A client waits while an API starts anew.
PATIENCE_SECONDS = 120.0
IDLE_SECONDS = 900.0
MODELS = 5
#: The model that is predicted with: there before anything goes wrong.
STEADY = "steady"
#: The status that stands for no answer at all.
NO_ANSWER = 0


@dataclass(eq=False)
class Load:
    """`clients` threads, each with connections of its own that it keeps open; they rest `pause` seconds a round."""

    url: str
    clients: int = 2
    pause: float = 0.5
    statuses: Counter[int] = field(default_factory=Counter)
    submitted: Counter[int] = field(default_factory=Counter)
    """Statuses of the submissions alone."""
    refused: list[str] = field(default_factory=list)
    """What each answer that was no success said."""
    acknowledged: list[str] = field(default_factory=list)
    """Paths of everything that the API said it had made."""

    def __enter__(self) -> "Load":
        self._numbers, self._lock, self._over = itertools.count(1), threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Requests without a success."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

    def lost(self) -> list[str]:
        """Acknowledged things that are not there now."""
        with _client(self.url) as http:
            return [path for path in self.acknowledged if not http.get(path).is_success]

    def _work(self) -> None:
        with _client(self.url) as http:
            while not self._over.is_set():
                self._round(http, next(self._numbers))
                self._over.wait(self.pause)

    def _round(self, http: httpx.Client, number: int) -> None:
        files = {"file": ("load.csv", table_of(number))}
        dataset = self._send(http, "/v1/datasets", files=files, data={"name": f"load {number}"})
        if dataset is not None:
            self._made(f"/v1/datasets/{dataset['id']}")
            job = self._send(http, "/v1/jobs", json=_job(dataset["id"], f"model-{number % MODELS}"))
            if job is not None:
                self._made(f"/v1/jobs/{job['id']}")
        self._send(http, f"/v1/models/{STEADY}/predict", json={"inputs": [{"x": 0.0, "y": 1.0}]})

    def _made(self, path: str) -> None:
        with self._lock:
            self.acknowledged.append(path)

    def _send(self, http: httpx.Client, path: str, **arguments: Any) -> dict[str, Any] | None:
        try:
            answer = http.post(path, **arguments)
        except httpx.TransportError as error:
            self._note(path, NO_ANSWER, repr(error))
            return None
        self._note(path, answer.status_code, "" if answer.is_success else answer.text[:300])
        return dict(answer.json()) if answer.is_success else None

    def _note(self, path: str, status: int, refusal: str = "") -> None:
        with self._lock:
            self.statuses[status] += 1
            if path == "/v1/jobs":
                self.submitted[status] += 1
            if refusal:
                self.refused.append(f"{path}: {status} {refusal}")


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False)


def _job(dataset: str, model: str) -> dict[str, str]:
    return {"kind": "adapt", "dataset": dataset, "model": model, "strategy": "target_only"}


def make_steady_model(url: str) -> None:
    """Returns once it can be predicted with."""
    with _client(url) as http:
        files = {"file": ("steady.csv", table_of(0))}
        dataset = _answer(http.post("/v1/datasets", files=files, data={"name": STEADY}))
        job = _answer(http.post("/v1/jobs", json=_job(dataset["id"], STEADY)))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while job["state"] != "succeeded":
            if time.monotonic() > deadline or job["state"] in {"failed", "cancelled"}:
                raise RuntimeError(f"the first job is {job['state']}: {job.get('error')}")
            time.sleep(0.1)
            job = _answer(http.get(f"/v1/jobs/{job['id']}"))


def _answer(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise RuntimeError(f"{response.request.url.path}: {response.status_code} {response.text[:300]}")
    return dict(response.json())


def wait_until_idle(database: Database) -> bool:
    """Whether every job ended in time."""
    return until(lambda: is_idle(database), IDLE_SECONDS)
