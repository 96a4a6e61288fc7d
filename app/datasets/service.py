"""Datasets in the database. Every query is confined to a project."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import blobs
from app.datasets.ingest import Ingested, ingest
from app.datasets.uploads import Upload
from app.dependencies import Services, after_commit
from app.errors import Forbidden, NotFound
from app.ids import new_id
from app.paging import Page, page_by_id
from app.projects import quotas
from app.tables import Dataset, Job, MetaLearner
from app.uses import refuse_while_used


def get(session: Session, project_id: str, dataset_id: str) -> Dataset:
    """Raises `NotFound` (dataset_not_found) where the project has no such dataset."""
    dataset = session.scalar(select(Dataset).where(Dataset.project_id == project_id, Dataset.id == dataset_id))
    if dataset is None:
        raise NotFound(f"There is no dataset '{dataset_id}'.", code="dataset_not_found")
    return dataset


def list_page(
    session: Session, project_id: str, page: Page, *, name: str | None, modality: str | None, domain: str | None
) -> tuple[list[Dataset], str | None]:
    """One page, newest first, and the token of the next."""
    rows = select(Dataset).where(Dataset.project_id == project_id)
    for column, value in ((Dataset.name, name), (Dataset.modality, modality), (Dataset.domain, domain)):
        if value is not None:
            rows = rows.where(column == value)
    return page_by_id(session, rows, Dataset.id, page)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An upload that was read and found good, and its blob, which is in storage."""

    upload: Upload
    ingested: Ingested
    canonical: Path
    blob: str


def prepare(services: Services, upload: Upload) -> Prepared:
    """Reads, checks and stores an upload's content. No transaction is open: a large file takes its time.

    Raises:
        InvalidInput: the file or some of its rows are bad; nothing is stored.
        Unavailable: too many other uploads are being read.
    """
    canonical = upload.folder / "canonical.parquet"
    ingested = ingest(
        upload.path, upload.filename, upload.form, services.settings, canonical, children=services.children
    )
    blob = services.storage.put_file(canonical)
    return Prepared(upload=upload, ingested=ingested, canonical=canonical, blob=blob)


def create(services: Services, session: Session, project_id: str, prepared: Prepared) -> tuple[Dataset, bool]:
    """The dataset of a prepared upload, and whether it is new: the same content again is the dataset that exists.

    Raises:
        Forbidden: (quota_bytes, quota_rows) the project has no room for it; this transaction was rolled back.
    """
    ingested, blob = prepared.ingested, prepared.blob
    existing = session.scalar(_same_content(project_id, ingested.content_hash))
    if existing is not None:
        after_commit(session, partial(_purge_unused, services, blob))
        return existing, False
    dataset = _row(project_id, prepared.upload, ingested, blob, prepared.canonical.stat().st_size)
    _claim_room(services, session, dataset)
    try:
        with session.begin_nested():
            blobs.hold(session, services.storage, blob, lambda: services.storage.put_file(prepared.canonical))
            session.add(dataset)
    except IntegrityError:
        winner = session.scalar(_same_content(project_id, ingested.content_hash))
        if winner is None:
            raise
        after_commit(session, partial(_purge_unused, services, blob))
        return winner, False
    return dataset, True


def _claim_room(services: Services, session: Session, dataset: Dataset) -> None:
    try:
        quotas.claim(session, services.settings, dataset.project_id, bytes=dataset.size_bytes, rows=dataset.n_examples)
    except Forbidden:
        # The blob lies in storage already. It goes in a transaction of its own, which waits for the end of this one.
        session.rollback()
        _purge_unused(services, dataset.blob)
        raise


def _same_content(project_id: str, content_hash: str) -> Select[Dataset]:
    return select(Dataset).where(Dataset.project_id == project_id, Dataset.content_hash == content_hash)


def _row(project_id: str, upload: Upload, ingested: Ingested, blob: str, size_bytes: int) -> Dataset:
    return Dataset(
        id=new_id("ds"),
        project_id=project_id,
        name=upload.form.name,
        modality=ingested.modality,
        task=ingested.task,
        domain=upload.form.domain or upload.form.name,
        n_examples=ingested.n_examples,
        classes=ingested.classes,
        columns=ingested.columns,
        content_hash=ingested.content_hash,
        blob=blob,
        size_bytes=size_bytes,
        warnings=ingested.warnings,
    )


def delete(services: Services, session: Session, project_id: str, dataset_id: str) -> None:
    """Removes the dataset, and its rows from storage where no other dataset has the same.

    Raises:
        NotFound: (dataset_not_found)
        Conflict: (dataset_in_use) an unfinished job or a meta-learner names it.
    """
    owned = select(Dataset).where(Dataset.project_id == project_id, Dataset.id == dataset_id).with_for_update()
    dataset = session.scalar(owned) or get(session, project_id, dataset_id)
    users = [*_jobs_using(session, project_id, dataset_id), *_meta_learners_using(session, project_id, dataset_id)]
    hint = "Wait for a job to end or cancel it; delete a meta-learner first."
    refuse_while_used("The dataset", users, code="dataset_in_use", hint=hint)
    session.delete(dataset)
    session.flush()
    after_commit(session, partial(_purge_unused, services, dataset.blob))


def _jobs_using(session: Session, project_id: str, dataset_id: str) -> Iterable[str]:
    unfinished = select(Job.id, Job.spec).where(Job.project_id == project_id, Job.state.in_(["queued", "running"]))
    unfinished = unfinished.order_by(Job.id)
    return [job_id for job_id, spec in session.execute(unfinished) if dataset_id in _datasets_of(spec)]


def _datasets_of(spec: dict[str, Any]) -> list[Any]:
    return [spec.get("dataset"), *(spec.get("sources") or ())]


def _meta_learners_using(session: Session, project_id: str, dataset_id: str) -> Iterable[str]:
    learners = select(MetaLearner.id, MetaLearner.sources).where(MetaLearner.project_id == project_id)
    learners = learners.order_by(MetaLearner.id)
    return [learner_id for learner_id, sources in session.execute(learners) if dataset_id in sources]


def _purge_unused(services: Services, blob: str) -> None:
    """Deletes the blob unless something else, of whatever project, is stored as it."""
    with services.database.transaction() as session:
        blobs.delete_unused(session, services.storage, blob)
