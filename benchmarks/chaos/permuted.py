"""Labels that mean nothing, and the same data with its own: none of the first may be promoted without a warning."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from structlog.testing import capture_logs

from app.settings import QUEUES
from benchmarks import servers
from benchmarks.chaos.ledger import Ledger, audit
from benchmarks.chaos.submitting import Client, submitting
from worker.draining import Drain
from worker.runner import Runner

ALIAS = "champion"
#: Warnings that say that a model may have learned nothing.
DOUBTS = {"may_be_chance", "no_better_than_majority", "not_validated"}

Rows = tuple[NDArray[np.float64], list[str]]


def two_classes(draw: np.random.Generator) -> Rows:
    labels = np.arange(24) % 2
    return draw.normal(size=(24, 2)) + 3.0 * labels[:, None], ["ab"[label] for label in labels]


def four_classes(draw: np.random.Generator) -> Rows:
    labels = np.arange(40) % 4
    corners = 4.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return draw.normal(size=(40, 2)) + corners[labels], ["abcd"[label] for label in labels]


def unequal_classes(draw: np.random.Generator) -> Rows:
    labels = (np.arange(45) % 3 == 0).astype(int)
    return draw.normal(size=(45, 2)) + 4.0 * labels[:, None], ["ab"[label] for label in labels]


def numbers(draw: np.random.Generator) -> Rows:
    inputs = draw.normal(size=(40, 2))
    return inputs, [f"{value:.4f}" for value in inputs @ [2.0, 1.0] + 0.3 * draw.normal(size=40)]


#: They take turns.
PROBLEMS: tuple[Callable[[np.random.Generator], Rows], ...] = (two_classes, four_classes, unequal_classes, numbers)


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """How many jobs of a kind were published and promoted, and how many of these came with a doubt."""

    published: int
    doubted: int
    refused: int
    """Jobs that failed because their model was useless."""


def run(kind: str, jobs: int) -> tuple[Promoted, Promoted, Ledger, float]:
    """Of `jobs` with permuted labels, and as many with honest ones; the audit; seconds. Nothing dies here."""
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        asked = servers.quick_settings(folder, url, broker_url)
        with submitting(asked) as client:
            ids = {name: [_submit(client, name, seed) for seed in range(jobs)] for name in ("permuted", "honest")}
            with capture_logs():  # a line or two a job
                Runner(client.http.app.state.services, QUEUES, Drain()).run("")
            permuted, honest = (_promote(client, name, found) for name, found in ids.items())
            return permuted, honest, audit(client.database), time.monotonic() - began


def _submit(client: Client, name: str, seed: int) -> str:
    """The id of a job for a model of its own."""
    inputs, labels = PROBLEMS[seed % len(PROBLEMS)](np.random.default_rng(seed))
    if name == "permuted":
        labels = [labels[row] for row in np.random.default_rng([seed, 1]).permutation(len(labels))]
    lines = [f"{x:.4f},{y:.4f},{label}" for (x, y), label in zip(inputs, labels, strict=True)]
    files = {"file": ("data.csv", "\n".join(["x,y,label", *lines]).encode())}
    dataset = _checked(client.http.post("/v1/datasets", files=files, data={"name": f"{name} {seed}"}))["id"]
    body = {"kind": "adapt", "dataset": dataset, "model": f"{name}-{seed}"}
    return str(_checked(client.http.post("/v1/jobs", json=body))["id"])


def _promote(client: Client, name: str, ids: list[str]) -> Promoted:
    """Points an alias at every version that there is, as whoever promotes a model would."""
    published = doubted = refused = 0
    for seed, job_id in enumerate(ids):
        job = _checked(client.http.get(f"/v1/jobs/{job_id}"))
        if job["state"] != "succeeded":
            refused += (job["error"] or {}).get("code") == "useless_model"
            continue
        answer = _checked(client.http.put(f"/v1/models/{name}-{seed}/aliases/{ALIAS}", json={"version": 1}))
        published += 1
        doubted += bool(DOUBTS & {warning["code"] for warning in answer["warnings"]})
    return Promoted(published=published, doubted=doubted, refused=refused)


def _checked(answer: Any) -> dict[str, Any]:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return dict(answer.json())
