"""What the tests of jobs and workers share: small datasets, rows of jobs, and waiting with a deadline."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from sqlalchemy import select

from app.db import Database
from app.dependencies import Services
from app.ids import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.security import DEFAULT_PROJECT
from app.tables import Dataset, Job, JobEvent

T = TypeVar("T")


def until(condition: Callable[[], T | None], *, seconds: float = 90.0, pause: float = 0.05) -> T:
    """The first truthy value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing within {seconds} s; last: {value!r}")
        time.sleep(pause)
    return value


def csv(*, shift: float = 0.0, rows: int = 24, seed: int = 0, classes: tuple[str, ...] = ("low", "high")) -> bytes:
    """A table of two numbers and a label that they tell apart."""
    draw = random.Random(f"{seed} {shift}")
    lines = ["a,b,label"]
    for row in range(rows):
        label = row % len(classes)
        lines.append(f"{draw.gauss(3 * label + shift, 1):.4f},{draw.gauss(shift, 1):.4f},{classes[label]}")
    return "\n".join(lines).encode()


def upload(client: Any, name: str = "toy", data: bytes | None = None, **form: str) -> str:
    """The id of the uploaded dataset."""
    files = {"file": (f"{name}.csv", data or csv())}
    answer = client.post("/v1/datasets", files=files, data={"name": name, **form})
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["id"])


def submit(client: Any, **body: Any) -> dict[str, Any]:
    answer: httpx.Response = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(client: Any, job_id: str, *, seconds: float = 120.0) -> dict[str, Any]:
    """The job, once it has reached its end."""

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] in lifecycle.TERMINAL else None

    return until(look, seconds=seconds)


def queued(services: Services, *, kind: str = "adapt", queue: str = "adapt", **spec: Any) -> str:
    """The id of a new job row."""
    job = Job(id=new_id("job"), project_id=DEFAULT_PROJECT, kind=kind, queue=queue, spec=spec)
    with services.database.transaction() as session:
        lifecycle.insert(session, job)
        return job.id


def claimed(services: Services, job_id: str | None = None, *, owner: str = "worker-1", lease: float = 30.0) -> Claim:
    found = try_claim(services, job_id, owner=owner, lease=lease)
    assert found is not None
    return found


def try_claim(
    services: Services, job_id: str | None = None, *, owner: str = "worker-1", lease: float = 30.0
) -> Claim | None:
    with services.database.transaction() as session:
        return lifecycle.claim(session, owner=owner, lease_seconds=lease, queues=["adapt", "train"], job_id=job_id)


def job_row(database: Database, job_id: str) -> Job:
    with database.session(read_only=True) as session:
        job = session.get(Job, job_id)
    assert job is not None
    return job


def event_types(database: Database, job_id: str) -> list[str]:
    """In order; also checks that the numbers have no gap."""
    with database.session(read_only=True) as session:
        events = list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


def dataset_row(services: Services, **values: Any) -> Dataset:
    """A dataset without rows in storage: enough for what only reads the table."""
    defaults: dict[str, Any] = {
        "id": new_id("ds"), "project_id": DEFAULT_PROJECT, "name": "toy", "modality": "tabular",
        "task": "classification", "domain": "toy", "n_examples": 4, "classes": {"low": 2, "high": 2},
        "columns": {"a": "numeric"}, "content_hash": new_id("x"), "blob": "0" * 64, "size_bytes": 1, "warnings": [],
    }  # fmt: skip
    dataset = Dataset(**defaults | values)
    with services.database.transaction() as session:
        session.add(dataset)
    return dataset
