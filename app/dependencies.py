"""What routes ask for: the services built by the root, a session, and who is asking."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import structlog
from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.changes import Remembered
from app.datasets.children import Children
from app.db import Database
from app.queue import HintSender
from app.settings import Settings
from app.storage import Storage

if TYPE_CHECKING:  # importing it loads torch, which the supervisor and a worker's main process do without
    from app.inference.engine import InferenceEngine
    from app.models.served import ServedVersion
    from app.security import Principal


log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Built once per process in the root and passed down."""

    settings: Settings
    database: Database
    storage: Storage
    hints: HintSender
    inference: "InferenceEngine"
    children: Children = field(init=False)
    """Of uploads; see `app.datasets.children`."""
    principals: "Remembered[Hashable, Principal]" = field(init=False)
    """Who a credential is; see `app.security`."""
    versions: "Remembered[Hashable, ServedVersion]" = field(init=False)
    """What a model's name, alias and number stand for; see `app.models.served`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "children", Children(self.settings))
        object.__setattr__(self, "principals", Remembered(self.database))
        object.__setattr__(self, "versions", Remembered(self.database))


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    """`get_services` as a dependency that needs no thread."""
    return get_services(request)


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Runs `action` once this request's transaction has committed, before the response leaves; never on rollback."""
    session.info.setdefault("after_commit", []).append(action)


def run_after_commit(session: Session) -> None:
    """What fails here is logged alone: the request is committed, and an error would tell its client otherwise."""
    for action in session.info.pop("after_commit", []):
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the request has succeeded
            log.warning("after_commit_failed", reason=type(error).__name__, detail=str(error)[:200])


def get_session(services: Annotated[Services, Depends(_services)]) -> Iterator[Session]:
    """The one transaction of a request that writes."""
    with services.database.session() as session:
        yield session
        session.commit()
        run_after_commit(session)


def get_read_session(services: Annotated[Services, Depends(_services)]) -> Iterator[Session]:
    """A session that never takes SQLite's write lock."""
    with services.database.session(read_only=True) as session:
        yield session
    # A client that has read of a new version must not be answered by the one before.
    services.database.look_again()


ServicesDep = Annotated[Services, Depends(_services)]
# scope="function": the commit happens before the response, so a failing commit is an error and not a 2xx.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]
