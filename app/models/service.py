"""Queries over models and their versions. Nothing here commits."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.errors import InvalidInput, NotFound
from app.models.schemas import MAX_NUMBER, ModelRead
from app.paging import Page
from app.tables import AliasMove, Feedback, Job, Model, ModelAlias, ModelVersion
from app.uses import UNTIL_A_JOB_ENDS, refuse_while_used

LATEST = "latest"
_ACTIVE = ("queued", "running")


def owned(project_id: str) -> Select[Model]:
    return select(Model).where(Model.project_id == project_id)


def get(session: Session, project_id: str, name: str, *, for_update: bool = False) -> Model:
    """The model; `for_update` makes other writers of it wait until this transaction ends.

    Raises:
        NotFound: the project has no model of this name.
    """
    query = owned(project_id).where(Model.name == name)
    model = session.scalar(query.with_for_update() if for_update else query)
    if model is None:
        raise NotFound(f"There is no model '{name}'.")
    return model


def describe(session: Session, models: Sequence[Model]) -> list[ModelRead]:
    """The models with their aliases, by one more query each for all of them."""
    ids = [model.id for model in models]
    aliases: dict[str, dict[str, int]] = {model_id: {} for model_id in ids}
    for alias in session.scalars(select(ModelAlias).where(ModelAlias.model_id.in_(ids)).order_by(ModelAlias.alias)):
        aliases[alias.model_id][alias.alias] = alias.number
    newest = select(ModelVersion.model_id, func.max(ModelVersion.number)).where(ModelVersion.model_id.in_(ids))
    latest = {row[0]: row[1] for row in session.execute(newest.group_by(ModelVersion.model_id))}
    return [
        ModelRead(
            id=model.id,
            name=model.name,
            modality=model.modality,
            task=model.task,
            latest_version=latest.get(model.id),
            aliases=aliases[model.id],
            created_at=model.created_at,
        )
        for model in models
    ]


def version(session: Session, model: Model, number: int) -> ModelVersion:
    """Raises `NotFound` where the model has no such version."""
    found = session.scalar(select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.number == number))
    if found is None:
        raise NotFound(f"Model '{model.name}' has no version {number}.")
    return found


def newest(session: Session, model: Model) -> ModelVersion | None:
    versions = select(ModelVersion).where(ModelVersion.model_id == model.id)
    return session.scalar(versions.order_by(ModelVersion.number.desc()).limit(1))


def resolve(
    session: Session, project_id: str, name: str, *, number: int | None = None, alias: str = LATEST
) -> tuple[Model, ModelVersion]:
    """A model and its version by number, else by alias; `latest` is the newest version.

    Raises:
        NotFound: there is no such model, version or alias.
    """
    model = get(session, project_id, name)
    if number is not None:
        return model, version(session, model, number)
    if alias == LATEST:
        found = newest(session, model)
        if found is None:
            raise NotFound(f"Model '{name}' has no version yet.")
        return model, found
    row = session.get(ModelAlias, (model.id, alias))
    if row is None:
        raise NotFound(f"Model '{name}' has no alias '{alias}'.")
    return model, version(session, model, row.number)


def versions(session: Session, model: Model, page: Page) -> tuple[list[ModelVersion], str | None]:
    """One page of versions, newest first. The token of a page is the last number, written like an id."""
    query = select(ModelVersion).where(ModelVersion.model_id == model.id)
    if page.token is not None:
        query = query.where(ModelVersion.number < _number_of(page.token))
    found = list(session.scalars(query.order_by(ModelVersion.number.desc()).limit(page.size + 1)))
    has_more = len(found) > page.size
    return found[: page.size], f"nr_{found[page.size - 1].number:032x}" if has_more else None


def _number_of(token: str) -> int:
    number = int(token.partition("_")[2], 16)
    if not token.startswith("nr_") or number > MAX_NUMBER:
        raise InvalidInput("This page_token is not one that a list of versions gave.", code="invalid_page_token")
    return number


def numbers(session: Session, model: Model) -> list[int]:
    """The numbers of all its versions, ascending."""
    query = select(ModelVersion.number).where(ModelVersion.model_id == model.id)
    return list(session.scalars(query.order_by(ModelVersion.number)))


def newest_numbers(session: Session, project_id: str) -> list[tuple[str, int]]:
    """Every model of the project that has a version, with the number of the newest; by name."""
    query = select(Model.name, func.max(ModelVersion.number)).join(ModelVersion, ModelVersion.model_id == Model.id)
    rows = session.execute(query.where(Model.project_id == project_id).group_by(Model.name).order_by(Model.name))
    return [(row[0], row[1]) for row in rows]


def active_jobs(session: Session, project_id: str, kinds: Iterable[str]) -> list[Job]:
    query = select(Job).where(Job.project_id == project_id, Job.state.in_(_ACTIVE), Job.kind.in_(list(kinds)))
    return list(session.scalars(query.order_by(Job.id)))


def _refuse_where_promoted(session: Session, model: Model, number: int | None) -> None:
    aliases = select(ModelAlias.alias).where(ModelAlias.model_id == model.id, ModelAlias.alias != LATEST)
    if number is not None:
        aliases = aliases.where(ModelAlias.number == number)
    what = f"The model '{model.name}'" if number is None else f"Version {number} of '{model.name}'"
    names = list(session.scalars(aliases.order_by(ModelAlias.alias)))
    refuse_while_used(what, names, code="version_in_use", hint="Delete the alias or move it to another version first.")


def delete_version(session: Session, project_id: str, name: str, number: int) -> None:
    """Deletes one version; its number is never given again.

    Raises:
        NotFound: there is no such version.
        Conflict: an alias other than `latest` names it, or a job is using it.
    """
    model = get(session, project_id, name, for_update=True)
    row = version(session, model, number)
    _refuse_where_promoted(session, model, number)
    jobs = active_jobs(session, project_id, ["batch_predict"])
    users = [job.id for job in jobs if job.spec.get("model_version") == row.id]
    refuse_while_used(f"Version {number} of '{name}'", users, code="version_in_use", hint=UNTIL_A_JOB_ENDS)
    session.delete(row)
    session.flush()
    _follow_newest(session, model)


def _follow_newest(session: Session, model: Model) -> None:
    """Keeps `latest` on the newest version that is left."""
    latest = session.get(ModelAlias, (model.id, LATEST))
    left = newest(session, model)
    if latest is None or (left is not None and left.number == latest.number):
        return
    if left is None:
        session.delete(latest)
    else:
        latest.number = left.number
        latest.revision += 1


def delete_model(session: Session, project_id: str, name: str) -> None:
    """Deletes the model with its versions, aliases and feedback.

    Raises:
        NotFound: there is no such model.
        Conflict: an alias other than `latest` exists, or a job is using the model.
    """
    model = get(session, project_id, name, for_update=True)
    _refuse_where_promoted(session, model, None)
    jobs = active_jobs(session, project_id, ["adapt", "batch_predict"])
    users = [job.id for job in jobs if job.spec.get("model") == name]
    refuse_while_used(f"The model '{name}'", users, code="model_in_use", hint=UNTIL_A_JOB_ENDS)
    for table in (ModelAlias, AliasMove, Feedback, ModelVersion):
        session.execute(delete(table).where(table.model_id == model.id))
    session.delete(model)
