"""The routes of meta-learners."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.dependencies import ReadSessionDep, SessionDep
from app.meta_learners import service
from app.meta_learners.schemas import MetaLearnerPage, MetaLearnerRead
from app.paging import PageDep, page_by_id
from app.schemas import PathName
from app.security import Principal, require
from app.tables import MetaLearner

router = APIRouter(prefix="/v1", tags=["meta-learners"])

Owner = Annotated[Principal, Depends(require("models"))]


@router.get("/meta-learners")
def list_meta_learners(session: ReadSessionDep, owner: Owner, page: PageDep) -> MetaLearnerPage:
    rows, token = page_by_id(session, service.owned(owner.project_id), MetaLearner.id, page)
    return MetaLearnerPage(items=[MetaLearnerRead.model_validate(row) for row in rows], next_page_token=token)


@router.get("/meta-learners/{meta_learner_id}")
def get_meta_learner(meta_learner_id: PathName, session: ReadSessionDep, owner: Owner) -> MetaLearnerRead:
    """The card says how much it gains over target_only, per number of shots."""
    return MetaLearnerRead.model_validate(service.get(session, owner.project_id, meta_learner_id))


@router.delete("/meta-learners/{meta_learner_id}", status_code=204)
def delete_meta_learner(meta_learner_id: PathName, session: SessionDep, owner: Owner) -> None:
    """Refused while a queued or running job names it; models adapted with it keep working."""
    service.delete(session, owner.project_id, meta_learner_id)
