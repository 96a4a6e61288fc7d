"""/healthz and /readyz, for orchestrators and without a key, and /metrics for Prometheus."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from app.db import utc_now
from app.dependencies import Services, ServicesDep
from app.errors import ErrorItem, Unavailable
from app.migrate import is_current
from app.security import Principal, require
from app.tables import Job

if TYPE_CHECKING:  # importing them loads torch
    from app.inference.features import FeatureCache
    from app.inference.learners import LearnerCache

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
STATES = ("queued", "running", "succeeded", "failed", "cancelled")

log = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"])

CheckState = Literal["ok", "failing"]
MetricsReader = Annotated[Principal, Depends(require("admin", or_metrics_token=True))]


class Readiness(BaseModel):
    """`degraded`: requests are served, but something that only costs time is away."""

    status: Literal["ready", "degraded"]
    checks: dict[str, CheckState]


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "A problem that names the failing checks"}})
def readyz(services: ServicesDep) -> Readiness:
    """Whether this process can serve requests."""
    failures = _failures(services)
    # Job rows are the queue of record, so a missing broker delays jobs and loses none.
    if blocking := {name: reason for name, reason in failures.items() if name != "broker"}:
        raise Unavailable(
            f"Not ready: {', '.join(blocking)}.",
            code="not_ready",
            errors=[ErrorItem(pointer=f"/checks/{name}", code=name, message=why) for name, why in blocking.items()],
        )
    names = ("database", "migrations", "storage", "broker")
    checks: dict[str, CheckState] = {name: "failing" if name in failures else "ok" for name in names}
    return Readiness(status="degraded" if failures else "ready", checks=checks)


def _failures(services: Services) -> dict[str, str]:
    """What is wrong, by check; the reason is for a stranger's eyes, the log has the rest."""
    checks: dict[str, tuple[Callable[[], Any], str]] = {
        "database": (lambda: _ping(services), "The database does not answer."),
        "migrations": (
            lambda: _check_schema(services),
            "The database schema is not the newest: run metagraft migrate.",
        ),
        "storage": (services.storage.check, "The storage cannot be reached or written to."),
        "broker": (services.hints.check, "The broker cannot be reached; jobs start later than usual."),
    }
    failures: dict[str, str] = {}
    for name, (check, reason) in checks.items():
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong means not ready
            log.warning("check_failed", check=name, reason=str(error))
            failures[name] = reason
    return failures


def _ping(services: Services) -> None:
    with services.database.session(read_only=True) as session:
        session.execute(text("SELECT 1"))


def _check_schema(services: Services) -> None:
    if not is_current(services.settings, services.database.engine):
        raise Unavailable("outstanding migrations")


class _State(Collector):
    """What is read at the moment of asking: the queue in the database, the caches of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        yield from _cache_metrics(self._services)
        try:
            yield from _job_metrics(self._services)
        except SQLAlchemyError as error:
            log.warning("job_metrics_unavailable", reason=str(error))


def _cache_metrics(services: Services) -> Iterable[Metric]:
    engine = services.inference
    caches: dict[str, FeatureCache | LearnerCache] = {"features": engine.features, "learners": engine.learners}
    lookups = CounterMetricFamily("metagraft_cache_lookups", "Cache look-ups", labels=["cache", "outcome"])
    for name, cache in caches.items():
        lookups.add_metric([name, "hit"], cache.hits)
        lookups.add_metric([name, "miss"], cache.misses)
    yield lookups


def _job_metrics(services: Services) -> Iterable[Metric]:
    with services.database.session(read_only=True) as session:
        rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
        counts = {row[0]: row[1] for row in rows}
        oldest = session.scalar(select(func.min(Job.created_at)).where(Job.state == "queued"))
    jobs = GaugeMetricFamily("metagraft_jobs", "Jobs by state", labels=["state"])
    for state in STATES:
        jobs.add_metric([state], counts.get(state, 0))
    yield jobs
    age = (utc_now() - oldest).total_seconds() if oldest else 0.0
    yield GaugeMetricFamily("metagraft_queue_age_seconds", "Age of the oldest queued job", value=max(age, 0.0))


@router.get("/metrics")
def metrics(request: Request, services: ServicesDep, _reader: MetricsReader) -> Response:
    """Prometheus text format; once a key exists, for a key with scope `admin` or for METAGRAFT_METRICS_TOKEN."""
    state = CollectorRegistry()
    state.register(_State(services))
    body = generate_latest(request.app.state.metrics.registry) + generate_latest(state)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
