"""What a project may store and run. Checked in the transaction that makes the thing; nothing here commits.

A measure with a limit is counted under a lock on the project's row, so of two requests that fit one by one but not
together the second is refused. A measure without a limit takes no lock and costs one look at the project's row.
"""

from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.errors import AppError, ErrorItem, Forbidden, TooManyRequests
from app.settings import Settings
from app.tables import Dataset, Feedback, Job, MetaLearner, Model, ModelVersion, Project

Measure = Literal["bytes", "rows", "jobs", "models"]
MEASURES: tuple[Measure, ...] = ("bytes", "rows", "jobs", "models")

_ACTIVE = ("queued", "running")
_JOBS_RETRY_SECONDS = 10

_WORDS: dict[Measure, tuple[str, str]] = {
    "bytes": ("bytes stored", "Delete datasets, versions of models or meta-learners"),
    "rows": ("rows of datasets and feedback", "Delete datasets, or models with their feedback"),
    "jobs": ("jobs waiting or running", "Wait for some to end, or cancel them"),
    "models": ("models", "Delete models, or adapt one that exists"),
}


def limits(project: Project, settings: Settings) -> dict[Measure, int | None]:
    """The project's own limits, else the service's; None where there is none."""
    own = {measure: getattr(project, f"quota_{measure}") for measure in MEASURES}
    general = {measure: getattr(settings, f"quota_{measure}") for measure in MEASURES}
    return {measure: (general[measure] if own[measure] is None else own[measure]) or None for measure in MEASURES}


def use(session: Session, project_id: str, measure: Measure) -> int:
    """How much of it the project uses now."""
    return _USE[measure](session, project_id)


def claim(session: Session, settings: Settings, project_id: str, **wanted: int) -> None:
    """Makes sure that so much more of each measure fits, until this transaction ends: `claim(..., rows=12, bytes=800)`.

    Raises:
        Forbidden: (quota_bytes, quota_rows, quota_models) something has to be deleted first.
        TooManyRequests: (quota_jobs) something has to end first.
    """
    for measure, limit in _limited(session, settings, project_id, wanted).items():
        used = use(session, project_id, measure)
        if used + wanted[measure] > limit:
            raise _refusal(measure, limit=limit, used=used, wanted=wanted[measure])


def claim_model(session: Session, settings: Settings, project_id: str, name: str) -> None:
    """Makes sure that a job which will publish the model `name` may do so; a name that is counted already may.

    Raises:
        Forbidden: (quota_models)
    """
    limit = _limited(session, settings, project_id, {"models": 1}).get("models")
    if limit is None:
        return
    names = _model_names(session, project_id)
    if name not in names and len(names) >= limit:
        raise _refusal("models", limit=limit, used=len(names), wanted=1)


def _limited(session: Session, settings: Settings, project_id: str, wanted: dict[str, int]) -> dict[Measure, int]:
    """The limits of the wanted measures that have one, with the project locked if there is any."""
    found = limits(session.get_one(Project, project_id), settings)
    limited = {measure: limit for measure, limit in found.items() if measure in wanted and limit is not None}
    if limited:
        # Weaker than FOR UPDATE, which would also hold up whoever only refers to the project.
        session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    return limited


def _refusal(measure: Measure, *, limit: int, used: int, wanted: int) -> AppError:
    what, hint = _WORDS[measure]
    detail = f"The project may have {limit:,} {what} and has {used:,}; this would add {wanted:,}. {hint}."
    items = [ErrorItem(code=f"quota_{measure}", message=f"{used:,} of {limit:,} {what} are used.", hint=f"{hint}.")]
    if measure == "jobs":
        headers = {"Retry-After": str(_JOBS_RETRY_SECONDS)}
        return TooManyRequests(detail, code="quota_jobs", errors=items, headers=headers)
    return Forbidden(detail, code=f"quota_{measure}", errors=items)


def _number(session: Session, query: Select[Any]) -> int:
    return int(session.scalar(query) or 0)


def _bytes(session: Session, project_id: str) -> int:
    """Sizes of blobs that rows name; results of batch predictions have no size on record and are not counted."""
    datasets = select(func.sum(Dataset.size_bytes)).where(Dataset.project_id == project_id)
    learners = select(func.sum(MetaLearner.size_bytes)).where(MetaLearner.project_id == project_id)
    versions = select(func.sum(ModelVersion.size_bytes)).join(Model, Model.id == ModelVersion.model_id)
    owned = versions.where(Model.project_id == project_id)
    return sum(_number(session, query) for query in (datasets, learners, owned))


def _rows(session: Session, project_id: str) -> int:
    examples = select(func.sum(Dataset.n_examples)).where(Dataset.project_id == project_id)
    feedback = select(func.count(Feedback.id)).join(Model, Model.id == Feedback.model_id)
    return _number(session, examples) + _number(session, feedback.where(Model.project_id == project_id))


def _jobs(session: Session, project_id: str) -> int:
    return _number(session, select(func.count(Job.id)).where(Job.project_id == project_id, Job.state.in_(_ACTIVE)))


def _model_names(session: Session, project_id: str) -> set[str]:
    """Models, and the names that unfinished jobs will publish: counted now, so that no finished job is refused."""
    names = set(session.scalars(select(Model.name).where(Model.project_id == project_id)))
    adapting = select(Job.spec).where(Job.project_id == project_id, Job.state.in_(_ACTIVE), Job.kind == "adapt")
    return names | {str(spec["model"]) for spec in session.scalars(adapting) if "model" in spec}


_USE: dict[Measure, Callable[[Session, str], int]] = {
    "bytes": _bytes,
    "rows": _rows,
    "jobs": _jobs,
    "models": lambda session, project_id: len(_model_names(session, project_id)),
}
