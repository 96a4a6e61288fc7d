"""Adapted models for the API tests, made by the real learning core and stored as a worker stores them."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.datasets.examples import Examples
from app.dependencies import Services
from app.ids import new_id
from app.inference.engine import InferenceEngine
from app.inference.training import AdaptOutcome, run_adapt
from app.jobs.publish import move_latest
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.storage import make_storage
from app.tables import Job, Model, ModelVersion, Project


def services_of(client: TestClient) -> Services:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    return services


def key_of(value: str | bytes) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()


def table(task: str = "classification") -> Examples:
    """Twelve rows of two columns: `size` decides, `colour` goes along."""
    sizes: list[float | str | None] = [1.0, 2.0, 1.5, 2.5, 1.2, 2.2, 9.0, 8.0, 9.5, 8.5, 9.2, 8.2]
    colours: list[float | str | None] = [*["red", "red", None] * 2, *["blue"] * 6]
    labels: Any = ["small"] * 6 + ["big"] * 6
    if task == "regression":
        labels = [10.0 * float(size or 0) for size in sizes]
    return Examples(
        modality="tabular",
        task=task,
        inputs={"size": sizes, "colour": colours},
        column_kinds={"size": "numeric", "colour": "categorical"},
        labels=labels,
        keys=[key_of(f"{size} {colour}") for size, colour in zip(sizes, colours, strict=True)],
    )


def encoded(modality: str, inputs: Sequence[Any], labels: list[str]) -> Examples:
    """Examples of texts or images."""
    return Examples(
        modality=modality,
        task="classification",
        inputs=list(inputs),
        column_kinds={},
        labels=labels,
        keys=[key_of(value) for value in inputs],
    )


def adapted(engine: InferenceEngine, examples: Examples, strategy: str = "target_only", **options: Any) -> AdaptOutcome:
    return run_adapt(
        engine,
        target=(new_id("ds"), examples),
        sources=[],
        strategy=strategy,
        options=options,
        meta_learner=None,
        seed=0,
        progress=lambda _fraction, _phase: None,
    )


@cache
def table_outcome(task: str = "classification") -> AdaptOutcome:
    """An adaptation to `table`, fitted once per test process."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        return adapted(InferenceEngine(settings, make_storage(settings)), table(task))


def publish(
    services: Services,
    name: str,
    outcome: AdaptOutcome | None = None,
    *,
    modality: str = "tabular",
    task: str = "classification",
    project_id: str = DEFAULT_PROJECT,
) -> int:
    """Stores the outcome (of `table` where none is given) as the next version of the model; its number."""
    outcome = outcome or table_outcome(task)
    sha256 = services.storage.put_bytes(outcome.artifact)
    with services.database.transaction() as session:
        model = session.query(Model).filter_by(project_id=project_id, name=name).one_or_none()
        if model is None:
            model = Model(
                id=new_id("mdl"), project_id=project_id, name=name, modality=modality, task=task, last_number=0
            )
            session.add(model)
        model.last_number += 1
        job = insert_job(session, project_id, "adapt", "succeeded", {})
        session.add(
            ModelVersion(
                id=new_id("mv"),
                model_id=model.id,
                number=model.last_number,
                job_id=job.id,
                dataset=new_id("ds"),
                strategy=outcome.strategy,
                encoder=outcome.encoder,
                report=outcome.report,
                lineage={"seed": 0},
                artifact=sha256,
                size_bytes=len(outcome.artifact),
            )
        )
        move_latest(session, model, model.last_number)
        return model.last_number


def insert_job(session: Any, project_id: str, kind: str, state: str, spec: Mapping[str, Any]) -> Job:
    job = Job(id=new_id("job"), project_id=project_id, kind=kind, queue="adapt", spec=dict(spec), state=state)
    session.add(job)
    session.flush()
    return job


def other_project(services: Services) -> str:
    """The id of a second project."""
    with services.database.transaction() as session:
        project = Project(id=new_id("prj"), name="another")
        session.add(project)
        return project.id
