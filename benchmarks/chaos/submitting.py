"""The API in this process, and small adaptation jobs sent to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings

ROWS, MODELS = 24, 5
NEVER = 86_400.0


class Client:
    """Submits jobs; every answer that is not a success raises."""

    def __init__(self, http: Any, database: Database) -> None:
        self.http, self.database = http, database
        self._uploads = 0
        self._table = self._fresh(texts=False)

    def submit(self, jobs: int, *, texts: bool = False) -> None:
        """Models take turns, so that jobs compete for the next number of each.

        Every job has data of its own: of what was seen before, features and artifacts are not written again.
        """
        name = "texts" if texts else "model"
        for number in range(jobs):
            body = self._body(f"{name}-{number % MODELS}", self._fresh(texts=texts))
            self._answer(self.http.post("/v1/jobs", json=body))

    def try_to_submit(self, model: str = "model-0", key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post("/v1/jobs", json=self._body(model, self._table), headers=headers)

    def cancel(self, job_id: str) -> int:
        """The status of the answer."""
        return int(self.http.post(f"/v1/jobs/{job_id}/cancel").status_code)

    @staticmethod
    def _body(model: str, dataset: str) -> dict[str, str]:
        return {"kind": "adapt", "dataset": dataset, "model": model, "strategy": "target_only"}

    def _fresh(self, *, texts: bool) -> str:
        """The id of a dataset that was never uploaded before."""
        self._uploads += 1
        return self._upload("data", _reviews(self._uploads) if texts else table_of(self._uploads))

    def _upload(self, name: str, data: bytes) -> str:
        files = {"file": (f"{name}.csv", data)}
        return str(self._answer(self.http.post("/v1/datasets", files=files, data={"name": name}))["id"])

    @staticmethod
    def _answer(answer: Any) -> dict[str, object]:
        if not answer.is_success:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
        return dict(answer.json())


@contextmanager
def submitting(settings: Settings) -> Iterator[Client]:
    # The workers' sweepers are on trial, and this process would be faster.
    app = create_app(settings.model_copy(update={"sweep_seconds": NEVER}))
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Client(http, app.state.services.database)


def table_of(seed: int) -> bytes:
    """A table of two numbers and a label that they tell apart."""
    numbers = np.random.default_rng(seed).normal(size=(ROWS, 2))
    rows = [f"{x + 3 * (i % 2):.4f},{y:.4f},{'ab'[i % 2]}" for i, (x, y) in enumerate(numbers)]
    return "\n".join(["x,y,label", *rows]).encode()


def _reviews(number: int) -> bytes:
    """Eight texts that tell good from bad."""
    praise = ("lovely", "a great buy", "works very well", "I would buy it again")
    blame = ("awful", "a waste of money", "broke after a day", "I sent it back")
    rows = [f"{text} {number},{label}" for label, texts in (("good", praise), ("bad", blame)) for text in texts]
    return "\n".join(["text,label", *rows]).encode()
