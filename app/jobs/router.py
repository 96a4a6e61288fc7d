"""The routes of jobs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from app import idempotency
from app.dependencies import ReadSessionDep, ServicesDep, SessionDep
from app.jobs import service
from app.jobs.schemas import EventRead, JobCreate, JobPage, JobRead, Kind, State
from app.jobs.streaming import stream
from app.paging import PageDep, page_by_id
from app.schemas import PathName
from app.security import Principal, require
from app.tables import Job

LARGEST_EVENT = 2**31 - 1

router = APIRouter(prefix="/v1", tags=["jobs"])
Owner = Annotated[Principal, Depends(require("jobs"))]


def _accepted(job: Job) -> idempotency.Answer:
    body = JobRead.model_validate(job).model_dump(mode="json")
    return idempotency.Answer(202, body, {"Location": f"/v1/jobs/{job.id}"})


@router.post("/jobs", status_code=202, response_model=JobRead)
def post_job(
    body: JobCreate, session: SessionDep, services: ServicesDep, owner: Owner, key: idempotency.KeyHeader = None
) -> JSONResponse:
    """Queues long work; follow it at the Location."""
    request = ["POST /v1/jobs", body.model_dump(mode="json")]

    def create() -> idempotency.Answer:
        return _accepted(service.submit(services, session, owner.project_id, body))

    return idempotency.once(session, owner.project_id, key, request, create).response()


@router.get("/jobs")
def list_jobs(
    session: ReadSessionDep, owner: Owner, page: PageDep, state: State | None = None, kind: Kind | None = None
) -> JobPage:
    """The project's jobs, newest first."""
    jobs, token = page_by_id(session, service.matching(owner.project_id, state, kind), Job.id, page)
    return JobPage(items=[JobRead.model_validate(job) for job in jobs], next_page_token=token)


@router.get("/jobs/{job_id}")
def get_job(job_id: PathName, session: ReadSessionDep, owner: Owner) -> JobRead:
    return JobRead.model_validate(service.get(session, owner.project_id, job_id))


@router.get(
    "/jobs/{job_id}/events",
    response_model=list[EventRead],
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
def get_events(
    *,
    job_id: PathName,
    request: Request,
    session: ReadSessionDep,
    services: ServicesDep,
    owner: Owner,
    after: Annotated[int, Query(ge=0, le=LARGEST_EVENT)] = 0,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, le=LARGEST_EVENT)] = 0,
) -> Response:
    """What happened to the job: a JSON list, or with `Accept: text/event-stream` each event as it happens."""
    job = service.get(session, owner.project_id, job_id)
    if "text/event-stream" in request.headers.get("accept", ""):
        return stream(services.database, job.id, max(after, last_event_id))
    found = [EventRead.model_validate(event) for event in service.events(session, job.id, after)]
    return JSONResponse([event.model_dump(mode="json", by_alias=True) for event in found])


@router.post("/jobs/{job_id}/cancel", status_code=202, response_model=JobRead)
def cancel_job(job_id: PathName, session: SessionDep, owner: Owner) -> JSONResponse:
    """A queued job is cancelled at once, a running one as soon as it can stop."""
    return _accepted(service.cancel(session, owner.project_id, job_id)).response()


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobRead)
def retry_job(
    job_id: PathName, session: SessionDep, services: ServicesDep, owner: Owner, key: idempotency.KeyHeader = None
) -> JSONResponse:
    """Queues a new job with the same request as a failed or cancelled one."""

    def create() -> idempotency.Answer:
        return _accepted(service.retry(services, session, owner.project_id, job_id))

    return idempotency.once(session, owner.project_id, key, ["POST /v1/jobs/retry", job_id], create).response()


@router.get(
    "/jobs/{job_id}/result",
    response_class=FileResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
def get_result(job_id: PathName, services: ServicesDep, owner: Owner) -> FileResponse:
    """The JSONL file of a batch prediction, one line per row of the dataset."""
    with services.database.session(read_only=True) as session:
        blob = service.download(session, owner.project_id, job_id)
    return FileResponse(services.storage.fetch(blob), media_type="application/x-ndjson", filename=f"{job_id}.jsonl")
