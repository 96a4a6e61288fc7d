"""What a key's project uses. Projects themselves are made on the command line."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.dependencies import ReadSessionDep, ServicesDep
from app.projects import service
from app.projects.schemas import UsageRead
from app.security import Principal, require
from app.tables import Project

router = APIRouter(prefix="/v1", tags=["projects"])

AnyKey = Annotated[Principal, Depends(require(None))]


@router.get("/usage")
def get_usage(session: ReadSessionDep, services: ServicesDep, caller: AnyKey) -> UsageRead:
    """What the project uses and what it may."""
    project = session.get_one(Project, caller.project_id)
    return service.usage(session, services.settings, project)
