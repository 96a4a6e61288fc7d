"""What an operator sees of the service: request ids, JSON logs, Prometheus metrics."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import uuid4

import structlog
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.types import EventDict, Processor

from app import errors, health
from app.headers import SECURITY_HEADERS
from app.settings import Settings

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: Keys of this API, credentials of any kind after the word Authorization, and passwords in URLs.
_SECRETS = re.compile(
    r"(?P<key>mg_[0-9a-f]{8})[0-9a-f]{24}_[A-Za-z0-9_-]+"
    r"|(?P<name>authorization\W{1,8}(?:bearer |basic )?|bearer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<user>://[^\s:/@\"]*:)[^\s/@\"]+(?=@)",
    re.IGNORECASE,
)

_access = logging.getLogger("access")


class Metrics:
    """The counters of one process. Jobs and caches are read when /metrics is asked (app/health.py)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("metagraft_requests", "Requests answered", labels, registry=self.registry)
        self.latency = Histogram(
            "metagraft_request_seconds", "Time to answer", ("method", "route"), registry=self.registry
        )
        self.problems = Counter(
            "metagraft_problems", "Requests answered by a problem", ("status", "code"), registry=self.registry
        )
        self.predictions = Counter(
            "metagraft_predictions", "Inputs answered", ("modality", "outcome"), registry=self.registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float, code: str | None) -> None:
        """`code`: the problem's, where the answer was one."""
        method = method if method in _METHODS else "other"  # a client may make up as many as it likes
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)
        if code is not None:
            self.problems.labels(str(status), code).inc()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None: ...


def _without_colours(_logger: Any, _name: str, event: EventDict) -> EventDict:
    # Uvicorn adds a coloured twin of its message.
    event.pop("color_message", None)
    return event


def _without_secrets(_logger: Any, _name: str, line: Any) -> str:
    """The finished line, so that no path to it is forgotten: fields, messages of libraries, tracebacks."""
    return _SECRETS.sub(lambda found: f"{next(filter(None, found.groups()))}***", str(line))


def configure_logging(settings: Settings) -> None:
    """One JSON object per line on standard error, for our own events and for the libraries' records alike."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_colours,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
            _without_secrets,
        ],
    )
    handler = _StandardError()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StandardError)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


def request_id_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The caller's X-Request-ID where it is a plain token, else a fresh one."""
    given = next((value.decode("latin-1") for name, value in headers if name.lower() == b"x-request-id"), "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _route_of(scope: Scope) -> str:
    """The route's template, so that ids and guessed paths never become label values."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


class Observer:
    """Names every request, logs and counts it, and answers errors that nothing else caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._observed(scope, receive, send, request_id)

    async def _observed(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        began = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if status:
                raise
            response = await errors.handle(HttpRequest(scope, receive), error)
            await response(scope, receive, send_with_headers)
        finally:
            self._record(scope, status or 499, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route_of(scope)
        code = scope["state"].get("problem_code")
        self.metrics.observe(scope["method"], route, status, seconds, code)
        level = logging.DEBUG if route in health.PATHS else logging.INFO
        if _access.isEnabledFor(level):
            _write_access_line(scope, route, status, seconds, level)


def _write_access_line(scope: Scope, route: str, status: int, seconds: float, level: int) -> None:
    """The line that every request has, written straight: the way through all of logging is long.

    It looks like those that `configure_logging` makes.
    """
    code = scope["state"].get("problem_code")
    line = {
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1e3, 2),
        **({} if code is None else {"code": code}),
        "event": "request",
        "request_id": scope["state"]["request_id"],
        "logger": "access",
        "level": logging.getLevelName(level).lower(),
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    sys.stderr.write(_without_secrets(None, "", json.dumps(line)) + "\n")
    sys.stderr.flush()


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith(("/v1", "/v2")):
        headers.setdefault("Cache-Control", "no-store")


def install(app: FastAPI, settings: Settings) -> None:
    """Logging, the observing middleware, and the routes of operations: /healthz, /readyz, /metrics."""
    configure_logging(settings)
    app.state.metrics = Metrics()
    app.add_middleware(Observer, metrics=app.state.metrics)
    app.include_router(health.router)
