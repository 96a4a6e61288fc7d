"""Batch prediction: every row of a dataset is answered into one JSONL file, a large one in parts (`app.jobs.parts`)."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import blobs
from app.datasets.examples import divided, iterate
from app.dependencies import Services
from app.errors import NotFound, finite
from app.jobs import parts
from app.jobs.lifecycle import Claim
from app.jobs.parts import PartClaim
from app.jobs.publish import publish_predictions
from app.tables import Dataset, JobPart, Model, ModelVersion
from learning.types import Progress
from worker.handlers.inputs import find_datasets
from worker.persistence import persist

log = structlog.get_logger(__name__)

#: How often the leader looks whether the last helpers are done.
LOOK_SECONDS = 0.25
#: More hints than there are workers wake nobody.
MOST_HINTS = 20
#: How long the files of parts are deleted for: the job has ended, and soon its lease ends what goes on.
DELETE_SECONDS = 5.0


def run(services: Services, claim: Claim, progress: Progress) -> bool:
    """Whether the file was published."""
    progress(0.0, "loading")
    (dataset,) = find_datasets(services, claim, [claim.spec["dataset"]])
    if dataset.n_examples > services.settings.batch_predict_part_rows:
        return _lead(services, claim, dataset, progress)
    progress(0.0, "predicting")
    with _scratch() as folder:
        path = Path(folder) / "predictions.jsonl"
        rows = range(dataset.n_examples)
        errors = _predict(services, claim, dataset, rows, path, lambda done: progress(done, "predicting"))
        return _publish(services, claim, path, rows=len(rows), errors=errors)


def help_with(services: Services, part: PartClaim, progress: Progress) -> bool:
    """Works on one part of somebody else's job; whether it was still wanted."""
    (dataset,) = find_datasets(services, part, [part.spec["dataset"]])
    return _work(services, part, dataset, lambda done: progress(done, "predicting"))


def _lead(services: Services, claim: Claim, dataset: Dataset, progress: Progress) -> bool:
    ranges = divided(services.storage, dataset, services.settings.batch_predict_part_rows)
    persist(services.database, lambda session: parts.plan(session, claim, ranges))
    for _ in range(min(len(ranges) - 1, MOST_HINTS)):
        if not services.hints.send(claim.job_id, claim.queue):
            break  # without helpers it takes longer, and no more than that

    def report(own: int) -> None:
        with services.database.session(read_only=True) as session:
            done = parts.rows_done(session, claim.job_id)
        progress((done + own) / dataset.n_examples, "predicting")

    while (found := _finished(services, claim)) is None:
        report(0)
        part = persist(services.database, lambda session: parts.take(session, claim))
        if part is None:
            time.sleep(LOOK_SECONDS)
        else:
            n_rows = part.n_rows
            _work(services, part, dataset, lambda done: report(round(done * n_rows)))  # noqa: B023 - called in this turn
    with _scratch() as folder:
        path = Path(folder) / "predictions.jsonl"
        _join(services, found, path)
        errors = sum(part.errors for part in found)
        is_published = _publish(services, claim, path, rows=dataset.n_examples, errors=errors)
    if is_published:  # else another leader may need them
        _delete(services, found)
    return is_published


def _finished(services: Services, claim: Claim) -> list[JobPart] | None:
    with services.database.session(read_only=True) as session:
        return parts.finished(session, claim.job_id)


def _join(services: Services, found: list[JobPart], path: Path) -> None:
    with path.open("wb") as joined:
        for part in found:
            with services.storage.fetch(str(part.blob)).open("rb") as lines:
                shutil.copyfileobj(lines, joined)


def _delete(services: Services, found: list[JobPart]) -> None:
    """Deletes the files of parts that no row names any more; what is left here, garbage collection takes."""
    deadline = time.monotonic() + DELETE_SECONDS
    for part in found:
        if time.monotonic() > deadline:
            return
        try:
            with services.database.transaction() as session:
                blobs.delete_unused(session, services.storage, str(part.blob))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job has succeeded
            log.warning("parts_not_deleted", job_id=part.job_id, reason=type(error).__name__)
            return


def _work(services: Services, part: PartClaim, dataset: Dataset, report: Callable[[float], None]) -> bool:
    """Answers the rows of a part and stores the lines; whether the claim still stood."""
    storage = services.storage
    with _scratch() as folder:
        path = Path(folder) / "part.jsonl"
        rows = range(part.first_row, part.first_row + part.n_rows)
        errors = _predict(services, part, dataset, rows, path, report)
        blob = storage.put_file(path)

        def finish(session: Session) -> bool:
            blobs.hold(session, storage, blob, lambda: storage.put_file(path))
            return parts.finish(session, part, blob=blob, errors=errors)

        is_done = persist(services.database, finish)
    log.info("part_ended", job_id=part.job_id, part=part.number, rows=part.n_rows, is_done=is_done)
    return is_done


def _predict(
    services: Services, claim: Claim, dataset: Dataset, rows: range, path: Path, report: Callable[[float], None]
) -> int:
    """Writes the answers of these rows, a line each; how many of them are errors."""
    version = _version(services, claim)
    row, errors = rows.start, 0
    with path.open("w", encoding="utf-8") as file:
        for examples in iterate(services.storage, dataset, rows=rows):
            for answer in services.inference.predict_examples(version.artifact, examples):
                row += 1
                errors += "error" in answer
                file.write(json.dumps(finite({"row": row, **answer}), allow_nan=False) + "\n")
            report((row - rows.start) / len(rows))
    return errors


def _publish(services: Services, claim: Claim, path: Path, *, rows: int, errors: int) -> bool:
    storage = services.storage
    blob = storage.put_file(path)

    def publish(session: Session) -> bool:
        blobs.hold(session, storage, blob, lambda: storage.put_file(path))
        return publish_predictions(session, claim, blob=blob, rows=rows, errors=errors)

    return persist(services.database, publish)


def _version(services: Services, claim: Claim) -> ModelVersion:
    mine = (
        select(ModelVersion)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(ModelVersion.id == claim.spec["model_version"], Model.project_id == claim.project_id)
    )
    with services.database.session(read_only=True) as session:
        found = session.scalar(mine)
    if found is None:
        raise NotFound("The model's version was deleted.", code="model_not_found")
    return found


def _scratch() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="metagraft-")
