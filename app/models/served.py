"""Which version answers for a model, as a predict call needs to know it."""

from collections.abc import Hashable
from dataclasses import dataclass

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.dependencies import Services
from app.models.service import LATEST, resolve


@dataclass(frozen=True, kw_only=True)
class ServedVersion:
    """One version of a model: what answers, and what it is to be called."""

    model_id: str
    model: str
    modality: str
    task: str
    number: int
    artifact: str


@dataclass(frozen=True, kw_only=True)
class Selector:
    """How a client names a version: by `number`, else by `alias`."""

    number: int | None = None
    alias: str = LATEST


async def served_version(services: Services, project_id: str, name: str, selector: Selector) -> ServedVersion:
    """The version, remembered for a moment (app/changes.py).

    Raises:
        NotFound: there is no such model, version or alias.
    """
    key: Hashable = (project_id, name, selector)
    found = services.versions.get(key)
    if found is not None:
        return found

    def read(session: Session) -> ServedVersion:
        model, version = resolve(session, project_id, name, number=selector.number, alias=selector.alias)
        return ServedVersion(
            model_id=model.id, model=model.name, modality=model.modality, task=model.task, number=version.number,
            artifact=version.artifact,
        )  # fmt: skip

    return await run_in_threadpool(services.versions.get_or_read, key, read)
