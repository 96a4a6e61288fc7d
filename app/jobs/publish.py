"""The last transaction of a job: its result appears and the job succeeds, or neither.

Whatever the result refers to is in storage before. Each function returns False, and has changed nothing once the
caller rolls back, where the claim no longer stands or a cancel was asked for.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, Unavailable, finite
from app.ids import new_id
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.models.service import LATEST
from app.tables import AliasMove, Dataset, MetaLearner, Model, ModelAlias, ModelVersion


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Bytes that lie in storage."""

    sha256: str
    size_bytes: int


def _next_number(session: Session, project_id: str, name: str) -> Model | None:
    """The model with its next number taken, locked until the transaction ends; None where the name is new."""
    mine = [Model.project_id == project_id, Model.name == name]
    taken = update(Model).where(*mine).values(last_number=Model.last_number + 1).returning(Model)
    options = {"synchronize_session": False, "populate_existing": True}
    return session.scalars(taken, execution_options=options).one_or_none()


def _create_model(session: Session, project_id: str, name: str, target: Dataset) -> Model | None:
    """The new model with its first number taken; None where another job created it at the same moment."""
    model = Model(
        id=new_id("mdl"), project_id=project_id, name=name, modality=target.modality, task=target.task, last_number=1
    )
    try:
        with session.begin_nested():
            session.add(model)
    except IntegrityError:
        return None
    return model


def _model(session: Session, project_id: str, name: str, target: Dataset) -> Model:
    model = (
        _next_number(session, project_id, name)
        or _create_model(session, project_id, name, target)
        or _next_number(session, project_id, name)
    )
    if model is None:
        raise Unavailable(f"The model '{name}' was created and deleted meanwhile.")
    if (model.modality, model.task) != (target.modality, target.task):
        raise Conflict(f"The model '{name}' is {model.modality} {model.task} by now.", code="model_mismatch")
    return model


def move_latest(session: Session, model: Model, number: int) -> None:
    """Points the alias `latest` at a new version."""
    alias = session.scalar(
        select(ModelAlias).where(ModelAlias.model_id == model.id, ModelAlias.alias == LATEST).with_for_update()
    )
    previous = alias.number if alias else None
    if alias is None:
        session.add(ModelAlias(model_id=model.id, alias=LATEST, number=number))
    else:
        alias.number, alias.revision, alias.updated_at = number, alias.revision + 1, utc_now()
    move = AliasMove(
        id=new_id("mv"), model_id=model.id, alias=LATEST, number=number, previous=previous, reason="published"
    )
    session.add(move)


def publish_version(
    session: Session,
    claim: Claim,
    *,
    target: Dataset,
    artifact: Artifact,
    strategy: str,
    encoder: str,
    report: dict[str, Any],
    lineage: dict[str, Any],
) -> bool:
    """Inserts the next version of the claim's model.

    Raises:
        Conflict: the name was taken by a model of another modality or task.
    """
    if not lifecycle.hold_for_publishing(session, claim):
        return False
    model = _model(session, claim.project_id, str(claim.spec["model"]), target)
    version = ModelVersion(
        id=new_id("mv"),
        model_id=model.id,
        number=model.last_number,
        job_id=claim.job_id,
        dataset=target.id,
        strategy=strategy,
        encoder=encoder,
        report=finite(report),
        lineage=finite(lineage),
        artifact=artifact.sha256,
        size_bytes=artifact.size_bytes,
    )
    session.add(version)
    move_latest(session, model, version.number)
    session.flush()
    return lifecycle.succeed(session, claim, {"model": model.name, "version": version.number, "report": version.report})


def publish_meta_learner(
    session: Session,
    claim: Claim,
    *,
    sources: list[Dataset],
    artifact: Artifact,
    encoder: str,
    card: dict[str, Any],
) -> bool:
    """Inserts the meta-learner."""
    if not lifecycle.hold_for_publishing(session, claim):
        return False
    meta_learner = MetaLearner(
        id=new_id("ml"),
        project_id=claim.project_id,
        job_id=claim.job_id,
        name=str(claim.spec["name"]),
        modality=sources[0].modality,
        task=sources[0].task,
        encoder=encoder,
        sources=[source.id for source in sources],
        card=finite(card),
        artifact=artifact.sha256,
        size_bytes=artifact.size_bytes,
    )
    session.add(meta_learner)
    session.flush()
    return lifecycle.succeed(session, claim, {"meta_learner": meta_learner.id})


def publish_predictions(session: Session, claim: Claim, *, blob: str, rows: int, errors: int) -> bool:
    """Names the file of a batch prediction in the job's result."""
    if not lifecycle.hold_for_publishing(session, claim):
        return False
    result = {"rows": rows, "errors": errors, "download": f"/v1/jobs/{claim.job_id}/result", "blob": blob}
    return lifecycle.succeed(session, claim, result)
