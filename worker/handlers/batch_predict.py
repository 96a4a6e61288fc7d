"""Batch prediction: every row of a dataset is answered into one JSONL file."""

import json
import tempfile
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import blobs
from app.datasets.examples import iterate
from app.dependencies import Services
from app.errors import NotFound, finite
from app.jobs.lifecycle import Claim
from app.jobs.publish import publish_predictions
from app.tables import Model, ModelVersion
from learning.types import Progress
from worker.handlers.inputs import find_datasets
from worker.persistence import persist


def run(services: Services, claim: Claim, progress: Progress) -> bool:
    """Whether the file was published."""
    progress(0.0, "loading")
    (dataset,) = find_datasets(services, claim, [claim.spec["dataset"]])
    version = _version(services, claim)
    progress(0.0, "predicting")
    rows = errors = 0
    with tempfile.TemporaryDirectory(prefix="metagraft-") as folder:
        path = Path(folder) / "predictions.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for examples in iterate(services.storage, dataset):
                for answer in services.inference.predict_examples(version.artifact, examples):
                    rows += 1
                    errors += "error" in answer
                    file.write(json.dumps(finite({"row": rows, **answer}), allow_nan=False) + "\n")
                progress(rows / dataset.n_examples, "predicting")
        return _publish(services, claim, path, rows=rows, errors=errors)


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
