"""Projects in the database. Nothing here commits."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.ids import new_id
from app.projects import quotas
from app.projects.quotas import Measure
from app.projects.schemas import Amount, UsageRead
from app.settings import Settings
from app.tables import Project


def create(session: Session, name: str) -> Project:
    """Raises `Conflict` (project_exists) where there is one of this name."""
    project = Project(id=new_id("prj"), name=name)
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError:
        raise Conflict(f"There is a project '{name}' already.", code="project_exists") from None
    return project


def get(session: Session, name: str) -> Project:
    """Raises `NotFound` where there is no project of this name."""
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        raise NotFound(f"There is no project '{name}'.")
    return project


def listed(session: Session) -> Sequence[Project]:
    """Oldest first."""
    return session.scalars(select(Project).order_by(Project.created_at, Project.id)).all()


def limit(session: Session, name: str, wanted: Mapping[Measure, int | None]) -> Project:
    """Gives the project limits of its own: 0 is no limit at all, None the service's.

    Raises:
        NotFound: there is no project of this name.
    """
    project = get(session, name)
    for measure, value in wanted.items():
        setattr(project, f"quota_{measure}", value)
    return project


def usage(session: Session, settings: Settings, project: Project) -> UsageRead:
    """What the project uses, and what it may."""
    limits = quotas.limits(project, settings)

    def amount(measure: Measure) -> Amount:
        return Amount(used=quotas.use(session, project.id, measure), limit=limits[measure])

    return UsageRead(
        project=project.name,
        bytes=amount("bytes"),
        rows=amount("rows"),
        jobs=amount("jobs"),
        models=amount("models"),
        requests_per_minute=settings.requests_per_minute or None,
    )
