"""Queries over meta-learners. Nothing here commits."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.models.service import active_jobs
from app.tables import MetaLearner
from app.uses import UNTIL_A_JOB_ENDS, refuse_while_used


def owned(project_id: str) -> Select[MetaLearner]:
    return select(MetaLearner).where(MetaLearner.project_id == project_id)


def get(session: Session, project_id: str, meta_learner_id: str, *, for_update: bool = False) -> MetaLearner:
    """Raises `NotFound` where the project has no such meta-learner."""
    query = owned(project_id).where(MetaLearner.id == meta_learner_id)
    found = session.scalar(query.with_for_update() if for_update else query)
    if found is None:
        raise NotFound(f"There is no meta-learner '{meta_learner_id}'.")
    return found


def delete(session: Session, project_id: str, meta_learner_id: str) -> None:
    """Deletes the meta-learner; models adapted with it keep working.

    Raises:
        NotFound: the project has no such meta-learner.
        Conflict: a queued or running job names it.
    """
    # The lock meets that of a job being submitted, so a job never begins without what it names.
    row = get(session, project_id, meta_learner_id, for_update=True)
    users = [job.id for job in active_jobs(session, project_id, ["adapt"]) if job.spec.get("meta_learner") == row.id]
    refuse_while_used("The meta-learner", users, code="meta_learner_in_use", hint=UNTIL_A_JOB_ENDS)
    session.delete(row)
