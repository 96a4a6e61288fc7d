"""Jobs as their owner handles them: submit, look, cancel, retry. What a worker does to a job stands in lifecycle.py."""

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.dependencies import Services, after_commit
from app.errors import Conflict, ErrorItem, InvalidInput, NotFound
from app.ids import new_id
from app.jobs import lifecycle
from app.jobs.references import resolve_adapt, resolve_batch_predict, resolve_meta_train
from app.jobs.schemas import (
    AdaptCreate,
    BatchPredictCreate,
    Kind,
    MetaTrainCreate,
    State,
    check_options,
    options_class,
)
from app.projects import quotas
from app.queue import QUEUE_OF_KIND, HintSender
from app.tables import Job, JobEvent
from learning.errors import InvalidOptions

MAX_EVENTS = 1_000


def _queue(services: Services, session: Session, project_id: str, kind: str, spec: dict[str, Any]) -> Job:
    quotas.claim(session, services.settings, project_id, jobs=1)
    if kind == "adapt":
        quotas.claim_model(session, services.settings, project_id, spec["model"])
    job = Job(id=new_id("job"), project_id=project_id, kind=kind, queue=QUEUE_OF_KIND[kind], spec=spec)
    lifecycle.insert(session, job)
    job_id, queue = job.id, job.queue
    after_commit(session, lambda: _hint(services.hints, job_id, queue))
    return job


def _hint(hints: HintSender, job_id: str, queue: str) -> None:
    hints.send(job_id, queue)


def _check_encoder(services: Services, options: dict[str, Any], modality: str) -> None:
    """Raises `InvalidInput` where the options name an encoder that does not exist, or is for another modality."""
    if options["encoder"] is None:
        return
    try:
        services.inference.encoders.check(options["encoder"], modality)
    except InvalidOptions as error:
        item = ErrorItem(pointer="/options/encoder", code=error.code, message=str(error), hint=error.hint or None)
        raise InvalidInput(str(error), code=error.code, errors=[item]) from None


def _meta_train_spec(services: Services, session: Session, project_id: str, body: MetaTrainCreate) -> dict[str, Any]:
    options = check_options(options_class(None), body.options)
    sources = resolve_meta_train(session, project_id, body)
    _check_encoder(services, options, sources[0].modality)
    return {
        "name": body.name,
        "sources": [source.id for source in sources],
        "options": options,
        "seed": body.seed,
    }


def _adapt_spec(services: Services, session: Session, project_id: str, body: AdaptCreate) -> dict[str, Any]:
    options = check_options(options_class(body.strategy), body.options)
    target, sources, meta_learner = resolve_adapt(session, project_id, body)
    _check_encoder(services, options, target.modality)
    return {
        "dataset": target.id,
        "sources": [source.id for source in sources],
        "meta_learner": meta_learner.id if meta_learner else None,
        "model": body.model,
        "strategy": body.strategy,
        "options": options,
        "seed": body.seed,
    }


def _batch_predict_spec(session: Session, project_id: str, body: BatchPredictCreate) -> dict[str, Any]:
    dataset, model, version = resolve_batch_predict(session, project_id, body)
    return {"dataset": dataset.id, "model": model.name, "version": version.number, "model_version": version.id}


def submit(
    services: Services, session: Session, project_id: str, body: MetaTrainCreate | AdaptCreate | BatchPredictCreate
) -> Job:
    """The queued job; its wake-up hint leaves once the transaction has committed.

    Raises:
        InvalidInput: an option is impossible, or something named does not exist or fit.
        Conflict: the model's name is taken by one of another modality or task.
        TooManyRequests: (quota_jobs) so many of the project wait or run already.
        Forbidden: (quota_models) the job would make one model too many.
    """
    if isinstance(body, MetaTrainCreate):
        spec = _meta_train_spec(services, session, project_id, body)
    elif isinstance(body, AdaptCreate):
        spec = _adapt_spec(services, session, project_id, body)
    else:
        spec = _batch_predict_spec(session, project_id, body)
    return _queue(services, session, project_id, body.kind, spec)


def get(session: Session, project_id: str, job_id: str) -> Job:
    """Raises `NotFound` where the project has no such job."""
    job = session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))
    if job is None:
        raise NotFound(f"There is no job '{job_id}'.")
    return job


def matching(project_id: str, state: State | None, kind: Kind | None) -> Select[Job]:
    """The project's jobs, narrowed by what is given."""
    jobs = select(Job).where(Job.project_id == project_id)
    if state is not None:
        jobs = jobs.where(Job.state == state)
    return jobs if kind is None else jobs.where(Job.kind == kind)


def events(session: Session, job_id: str, after: int) -> list[JobEvent]:
    """The events after number `after`, at most MAX_EVENTS."""
    later = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    return list(session.scalars(later.order_by(JobEvent.seq).limit(MAX_EVENTS)))


def request_of(session: Session, job_id: str) -> str | None:
    """The id of the request that submitted the job."""
    first = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.seq == 1)
    return (session.scalar(first) or {}).get("request_id")


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """The job, cancelled if it was queued, asked to stop if it runs.

    Raises:
        NotFound: the project has no such job.
        Conflict: the job already ended.
    """
    job = get(session, project_id, job_id)
    asked = lifecycle.request_cancel(session, job.id)
    if asked is None:
        session.refresh(job)
        raise Conflict(f"The job already {job.state}; it cannot be cancelled.", code="job_ended")
    return asked


def retry(services: Services, session: Session, project_id: str, job_id: str) -> Job:
    """A new job with the same request: an ended job never changes.

    Raises:
        NotFound: the project has no such job.
        Conflict: the job neither failed nor was cancelled.
        TooManyRequests, Forbidden: (quota_jobs, quota_models) as for a new job.
    """
    job = get(session, project_id, job_id)
    if job.state not in {"failed", "cancelled"}:
        raise Conflict(f"The job is {job.state}; only a failed or cancelled one is retried.", code="job_not_retryable")
    return _queue(services, session, project_id, job.kind, dict(job.spec) | {"retry_of": job.id})


def download(session: Session, project_id: str, job_id: str) -> str:
    """Name of the blob that a batch_predict job produced.

    Raises:
        NotFound: the project has no such job, or its kind makes no file.
        Conflict: the job has not succeeded.
    """
    job = get(session, project_id, job_id)
    if job.kind != "batch_predict":
        raise NotFound(f"A job of kind {job.kind} has no file to download.", code="no_download")
    if job.state != "succeeded" or job.result is None:
        raise Conflict(f"The job is {job.state}; there is no result to download.", code="job_not_succeeded")
    return str(job.result["blob"])
