"""Naming a blob and deleting it: one after the other, on both databases, whoever comes first."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, String, func, insert, select, text, update
from sqlalchemy.orm import Session

from app import blobs
from app.db import db_now
from app.dependencies import Services
from app.ids import new_id
from app.security import DEFAULT_PROJECT
from app.storage import FolderStorage
from app.tables import Base, Dataset, Job, JobPart, Lease, MetaLearner, Model, ModelVersion
from tests.app.locks import is_refused
from tests.jobs import csv, dataset_row, queued, submit, upload
from worker.draining import Drain
from worker.runner import Runner

#: How long a thread waits for another one's signal before the test fails.
SECONDS = 60.0

#: Columns that look as if they could name a blob, and do not. A new column has to be put here or into `app.blobs`.
OTHER_COLUMNS = {
    "leases.name", "tallies.name", "api_keys.secret_hash", "datasets.content_hash", "idempotency_keys.request_hash",
    "blob_marks.sha256",  # what is to be deleted, not what is to be kept
}  # fmt: skip
OTHER_JSON = {
    "api_keys.scopes", "datasets.classes", "datasets.columns", "datasets.warnings", "jobs.spec", "jobs.error",
    "job_events.data", "meta_learners.sources", "meta_learners.card", "model_versions.report",
    "model_versions.lineage", "feedback.input", "idempotency_keys.body", "idempotency_keys.headers",
}  # fmt: skip


def test_every_column_that_could_name_a_blob_is_decided_on() -> None:
    columns = {f"{c.table.name}.{c.name}": c.type for t in Base.metadata.sorted_tables for c in t.columns}
    digests = {name for name, kind in columns.items() if isinstance(kind, String) and kind.length == 64}
    documents = {name for name, kind in columns.items() if isinstance(kind, JSON)}
    assert digests == {str(column) for column in _named_as(blobs.BLOB_COLUMNS)} | OTHER_COLUMNS
    assert documents == {str(column) for column in _named_as(column for column, _ in blobs.BLOB_KEYS)} | OTHER_JSON


def _named_as(columns: Any) -> Iterator[str]:
    return (f"{column.table.name}.{column.key}" for column in columns)


def test_every_kind_of_row_that_names_a_blob_is_found(services: Services) -> None:
    names = {letter * 64 for letter in "abcdf"}
    dataset_row(services, blob="a" * 64)
    job_id = queued(services)
    version = _version(services, job_id, "b" * 64)
    with services.database.transaction() as session:
        session.add(version)
        session.add(
            MetaLearner(
                id=new_id("ml"), project_id=DEFAULT_PROJECT, job_id=job_id, name="m", modality="text",
                task="classification", encoder="e", sources=[], card={}, artifact="c" * 64, size_bytes=1,
            )
        )  # fmt: skip
        session.add(
            Job(
                id=new_id("job"), project_id=DEFAULT_PROJECT, kind="batch_predict", queue="adapt", spec={},
                state="succeeded", result={"rows": 1, "blob": "d" * 64},
            )
        )  # fmt: skip
        session.add(JobPart(job_id=job_id, number=0, first_row=0, n_rows=1, blob="f" * 64))
        session.add(JobPart(job_id=job_id, number=1, first_row=1, n_rows=1))
    with services.database.session(read_only=True) as session:
        assert blobs.named(session) == names
        assert all(blobs.is_named(session, name) for name in names)
        assert not blobs.is_named(session, "e" * 64)


def _version(services: Services, job_id: str, artifact: str) -> ModelVersion:
    with services.database.transaction() as session:
        model = Model(id=new_id("mdl"), project_id=DEFAULT_PROJECT, name="m", modality="text", task="classification")
        session.add(model)
    return ModelVersion(
        id=new_id("mv"), model_id=model.id, number=1, job_id=job_id, dataset="ds", strategy="auto", encoder="e",
        report={}, lineage={}, artifact=artifact, size_bytes=1,
    )  # fmt: skip


def _is_locked(services: Services, sha256: str) -> bool:
    """Whether another transaction decides about the blob now. Never waits."""
    if services.settings.database_url.startswith("sqlite"):
        return is_refused(services, text("BEGIN IMMEDIATE"))
    with services.database.session() as session:
        return not session.scalar(select(func.pg_try_advisory_xact_lock(int(sha256[:15], 16))))


def _be_patient(session: Session) -> None:
    """Waits for a lock longer than the service does: the machine may be slow."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SET LOCAL lock_timeout = '{SECONDS:.0f}s'"))


def test_blob_is_locked_until_the_transaction_that_names_it_ends(services: Services) -> None:
    sha256 = services.storage.put_bytes(b"a graft")
    with services.database.transaction() as session:
        blobs.hold(session, services.storage, sha256, pytest.fail)
        assert _is_locked(services, sha256)
    assert not _is_locked(services, sha256)


def test_blob_is_locked_until_the_transaction_that_deletes_it_ends(services: Services) -> None:
    sha256 = services.storage.put_bytes(b"a graft")
    with services.database.transaction() as session:
        assert blobs.delete_unused(session, services.storage, sha256)
        assert _is_locked(services, sha256)


def test_deletion_sees_the_row_of_a_transaction_that_came_first(services: Services) -> None:
    sha256, asked = services.storage.put_bytes(b"a graft"), threading.Event()

    def collect() -> bool:
        asked.set()
        with services.database.transaction() as session:
            _be_patient(session)
            return blobs.delete_unused(session, services.storage, sha256)

    with ThreadPoolExecutor(1) as pool:
        with services.database.transaction() as session:
            blobs.hold(session, services.storage, sha256, pytest.fail)
            found = pool.submit(collect)  # begins while the blob is held, and can only end after the commit
            assert asked.wait(SECONDS)
            session.execute(insert(Dataset).values(**_columns(sha256)))
        assert not found.result(SECONDS)
    assert services.storage.exists(sha256)


class Slow(FolderStorage):
    """Deletes, and then waits until it may go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.deleted, self.may_go_on = threading.Event(), threading.Event()

    def delete(self, sha256: str) -> None:
        super().delete(sha256)
        self.deleted.set()
        assert self.may_go_on.wait(SECONDS)


def test_blob_is_put_back_by_a_transaction_that_comes_while_it_is_deleted(services: Services, tmp_path: Path) -> None:
    storage = Slow(tmp_path / "slow")
    sha256 = storage.put_bytes(b"a graft")

    def delete() -> bool:
        with services.database.transaction() as session:
            return blobs.delete_unused(session, storage, sha256)

    def publish() -> None:
        storage.may_go_on.set()
        with services.database.transaction() as session:
            _be_patient(session)
            blobs.hold(session, storage, sha256, lambda: storage.put_bytes(b"a graft"))
            session.execute(insert(Dataset).values(**_columns(sha256)))

    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(delete)
        assert storage.deleted.wait(SECONDS)
        publication = pool.submit(publish)
        publication.result(SECONDS)
        assert deletion.result(SECONDS)
    assert storage.read(sha256) == b"a graft"


def _columns(blob: str) -> dict[str, Any]:
    return {
        "id": new_id("ds"), "project_id": DEFAULT_PROJECT, "name": "toy", "modality": "tabular", "task": "regression",
        "domain": "toy", "n_examples": 1, "classes": {}, "columns": {}, "content_hash": "x", "blob": blob,
        "size_bytes": 1, "warnings": [],
    }  # fmt: skip


def test_nothing_is_deleted_while_a_backup_is_made(services: Services) -> None:
    sha256 = services.storage.put_bytes(b"a graft")
    with services.database.transaction() as session:
        session.execute(insert(Lease).values(name=blobs.backup_lease("x"), until=db_now() + 60))
        assert not blobs.delete_unused(session, services.storage, sha256)
        session.execute(update(Lease).values(until=db_now() - 1))
        assert blobs.delete_unused(session, services.storage, sha256)


class Snatching(FolderStorage):
    """Loses every blob once, at the moment it was stored."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lost: set[str] = set()

    def _put(self, sha256: str, chunks: Iterator[bytes]) -> str:
        super()._put(sha256, chunks)
        if sha256 not in self.lost:
            self.lost.add(sha256)
            self.delete(sha256)
        return sha256


def test_everything_a_client_and_a_worker_publish_is_there_although_it_was_collected_meanwhile(client: Any) -> None:
    asked: Services = client.app.state.services
    assert isinstance(asked.storage, FolderStorage)
    storage = Snatching(asked.storage.root)
    services = Services(
        settings=asked.settings, database=asked.database, storage=storage, hints=asked.hints, inference=asked.inference
    )
    client.app.state.services = services
    dataset = upload(client)
    others = [upload(client, f"other {seed}", csv(seed=seed)) for seed in (1, 2)]
    options = {"steps": 1, "evaluation_episodes": 4, "evaluation_shots": [1]}
    jobs = (
        {"kind": "adapt", "dataset": dataset, "model": "m", "strategy": "target_only"},
        {"kind": "batch_predict", "dataset": dataset, "model": "m"},
        {"kind": "meta_train", "sources": others, "name": "ml", "options": options},
    )
    for body in jobs:
        job_id = submit(client, **body)["id"]
        Runner(services, ["adapt", "train"], Drain()).run(job_id)
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
    with services.database.session(read_only=True) as session:
        named = blobs.named(session)
    assert len(named) == len(storage.lost) == 6
    assert all(storage.exists(sha256) for sha256 in named)
