"""/healthz and /readyz, for orchestrators and without a key, and /metrics for Prometheus."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from app.dependencies import ServicesDep
from app.errors import ErrorItem, Unavailable
from app.metrics import State
from app.readiness import OPTIONAL
from app.security import Principal, require

#: What is asked every few seconds, by whatever protocol.
PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})

router = APIRouter(tags=["operations"])

CheckState = Literal["ok", "failing"]
MetricsReader = Annotated[Principal, Depends(require("admin", or_metrics_token=True))]


class ReadinessRead(BaseModel):
    """`degraded`: requests are served, but something that only costs time is away."""

    status: Literal["ready", "degraded"]
    checks: dict[str, CheckState]
    reasons: dict[str, str] | None = None
    """Why, for each check that fails; absent where none does."""


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@router.get("/readyz", response_model_exclude_none=True)
def readyz(request: Request) -> ReadinessRead:
    """Whether this process can serve requests; 503 names the checks that say no."""
    readiness = request.app.state.readiness
    failures: dict[str, str] = readiness.failures()
    if blocking := {name: reason for name, reason in failures.items() if name not in OPTIONAL}:
        raise Unavailable(
            f"Not ready: {', '.join(blocking)}.",
            code="not_ready",
            errors=[ErrorItem(pointer=f"/checks/{name}", code=name, message=why) for name, why in blocking.items()],
        )
    checks: dict[str, CheckState] = {name: "failing" if name in failures else "ok" for name in readiness.names}
    return ReadinessRead(status="degraded" if failures else "ready", checks=checks, reasons=failures or None)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, services: ServicesDep, _reader: MetricsReader) -> Response:
    """Prometheus text format; once a key exists, for a key with scope `admin` or for METAGRAFT_METRICS_TOKEN."""
    state = CollectorRegistry()
    state.register(State(services, request.app.state.connections))
    body = generate_latest(request.app.state.metrics.registry) + generate_latest(state)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
