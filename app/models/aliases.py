"""Aliases: names that move between versions, each move on record. Nothing here commits."""

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, ErrorItem, InvalidInput, NotFound, PreconditionFailed, PreconditionRequired
from app.ids import new_id
from app.models import service
from app.models.service import LATEST
from app.tables import AliasMove, Model, ModelAlias, ModelVersion


def etag(alias: ModelAlias) -> str:
    return f'"{alias.revision}"'


def get(session: Session, model: Model, name: str) -> ModelAlias:
    """Raises `NotFound` where the model has no such alias."""
    alias = session.get(ModelAlias, (model.id, name))
    if alias is None:
        raise NotFound(f"Model '{model.name}' has no alias '{name}'.")
    return alias


def warnings(session: Session, alias: ModelAlias) -> list[dict[str, Any]]:
    """Those in the report of the version that the alias names."""
    named = select(ModelVersion.report).where(
        ModelVersion.model_id == alias.model_id, ModelVersion.number == alias.number
    )
    report = session.scalar(named) or {}
    return list(report.get("warnings") or [])


def moves(model: Model, name: str) -> Select[AliasMove]:
    return select(AliasMove).where(AliasMove.model_id == model.id, AliasMove.alias == name)


def put(
    session: Session, project_id: str, model_name: str, name: str, *, number: int, if_match: str | None
) -> tuple[ModelAlias, bool]:
    """The alias, now on version `number`, and whether it was created.

    Raises:
        NotFound: the project has no such model.
        InvalidInput: the model has no such version.
        Conflict: the alias is `latest`.
        PreconditionRequired, PreconditionFailed: the alias exists and `if_match` is missing or not its ETag.
    """
    model = _locked(session, project_id, model_name, name)
    alias = session.get(ModelAlias, (model.id, name))
    _check_if_match(alias, if_match, required=True)
    if not _exists(session, model, number):
        message = f"Model '{model_name}' has no version {number}."
        item = ErrorItem(pointer="/version", code="version_not_found", message=message, hint="See its versions.")
        raise InvalidInput(message, code="version_not_found", errors=[item])
    if alias is None:
        alias = ModelAlias(model_id=model.id, alias=name, number=number, revision=_next_revision(session, model, name))
        session.add(alias)
        _record(session, alias, previous=None, reason="set")
        return alias, True
    _move(session, alias, number, "set")
    return alias, False


def rollback(session: Session, project_id: str, model_name: str, name: str, if_match: str | None) -> ModelAlias:
    """The alias, back on the version it named before; again goes back one further.

    Raises:
        NotFound: there is no such model or alias.
        Conflict: there is nothing to go back to, or that version was deleted.
        PreconditionFailed: `if_match` was given and is not the alias's ETag.
    """
    model = _locked(session, project_id, model_name, name)
    alias = get(session, model, name)
    _check_if_match(alias, if_match, required=False)
    previous = _before(list(session.scalars(moves(model, name).order_by(AliasMove.id))))
    if previous is None:
        raise Conflict(f"Alias '{name}' never named another version.", code="nothing_to_roll_back")
    if not _exists(session, model, previous):
        raise Conflict(f"Version {previous}, which '{name}' named before, was deleted.", code="version_deleted")
    _move(session, alias, previous, "rollback")
    return alias


def delete(session: Session, project_id: str, model_name: str, name: str, if_match: str | None) -> None:
    """Deletes the alias; its history stays.

    Raises:
        NotFound: there is no such model or alias.
        Conflict: the alias is `latest`.
        PreconditionFailed: `if_match` was given and is not the alias's ETag.
    """
    model = _locked(session, project_id, model_name, name)
    alias = get(session, model, name)
    _check_if_match(alias, if_match, required=False)
    move = AliasMove(id=new_id("mv"), model_id=model.id, alias=name, number=None, previous=alias.number)
    move.reason = "delete"
    session.add(move)
    session.delete(alias)


def _locked(session: Session, project_id: str, model_name: str, name: str) -> Model:
    if name == LATEST:
        raise Conflict("The alias 'latest' moves by itself.", code="latest_is_automatic")
    return service.get(session, project_id, model_name, for_update=True)


def _exists(session: Session, model: Model, number: int) -> bool:
    query = select(ModelVersion.id).where(ModelVersion.model_id == model.id, ModelVersion.number == number)
    return session.scalar(query) is not None


def _check_if_match(alias: ModelAlias | None, if_match: str | None, *, required: bool) -> None:
    if if_match is None:
        if alias is not None and required:
            raise PreconditionRequired(
                f"The alias exists: send If-Match with its ETag, now {etag(alias)}.", headers={"ETag": etag(alias)}
            )
        return
    if alias is None:
        raise PreconditionFailed("If-Match was sent, but the alias does not exist.")
    accepted = [tag.strip() for tag in if_match.split(",")]
    if "*" not in accepted and etag(alias) not in accepted:
        raise PreconditionFailed(
            f"The alias has moved since: its ETag is now {etag(alias)}.", headers={"ETag": etag(alias)}
        )


def _next_revision(session: Session, model: Model, name: str) -> int:
    """Counts on where a deleted alias of this name left off, so that an old ETag never fits a new alias."""
    return 1 + (session.scalar(select(func.count()).select_from(moves(model, name).subquery())) or 0)


def _move(session: Session, alias: ModelAlias, number: int, reason: str) -> None:
    if alias.number == number:
        return
    previous, alias.number = alias.number, number
    alias.revision += 1
    alias.updated_at = utc_now()
    _record(session, alias, previous=previous, reason=reason)


def _record(session: Session, alias: ModelAlias, *, previous: int | None, reason: str) -> None:
    session.add(
        AliasMove(
            id=new_id("mv"),
            model_id=alias.model_id,
            alias=alias.alias,
            number=alias.number,
            previous=previous,
            reason=reason,
        )
    )
    session.flush()


def _before(history: list[AliasMove]) -> int | None:
    """The version that one step back leads to: each set adds a step, each rollback takes one, a deletion all."""
    steps: list[int] = []
    for move in history:
        if move.reason == "rollback":
            steps.pop()
        elif move.number is None:
            steps.clear()
        else:
            steps.append(move.number)
    return steps[-2] if len(steps) >= 2 else None
