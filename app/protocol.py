"""HTTP/1.1 with limits: uvicorn's protocol parses, this subclass counts bytes and headers and holds the clock.

A connection is always in one stage of its current request. While the service waits for the client the clock runs; while
the client waits for the service it stands still.

    silent -> head -> body -> whole (answered, then idle) -> head ...          any of them -> refused
"""

import time
from enum import Enum, auto
from typing import Any, ClassVar
from uuid import uuid4

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.connections import Connections
from app.errors import (
    AppError,
    BadRequest,
    HeadTooLarge,
    ProblemResponse,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UriTooLong,
    content,
)
from app.headers import SECURITY_HEADERS
from app.settings import Settings

log = structlog.get_logger(__name__)

MAX_URI_BYTES = 16 * 2**10
MAX_HEADERS = 100
#: Requests a client may send ahead of their answers.
MAX_PIPELINED = 256
#: The slowest pace of a body that is put up with in the long run.
BODY_BYTES_PER_SECOND = 1024
#: How long a refused client may take to read why.
LINGER_SECONDS = 5.0


class Stage(Enum):
    SILENT = auto()
    HEAD = auto()
    BODY = auto()
    WHOLE = auto()
    REFUSED = auto()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `limited_protocol` makes the class that a server uses."""

    settings: ClassVar[Settings]
    registry: ClassVar[Connections]

    # --- what uvicorn calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._stage = Stage.SILENT
        self._since = self._looked_at = time.monotonic()
        self._head_bytes = self._n_headers = self._body_bytes = 0
        self.url = b""
        self._complaint: tuple[AppError, str] | None = None
        self._stuck_since: float | None = None
        self._closing_since: float | None = None
        self._answering: RequestResponseCycle | None = None
        super().connection_made(transport)
        if not self.registry.admit(self):
            self.app = _overloaded

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.forget(self)
        self.pipeline.clear()
        if self._answering is not None:  # uvicorn tells the latest request alone, which may wait behind this one
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._stage is Stage.REFUSED:
            return
        if self._stage is Stage.HEAD:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._stage is Stage.HEAD and self._head_bytes > self.settings.max_head_bytes:
            self._refuse(self._head_too_large(), "head_too_large")

    def pause_writing(self) -> None:
        self._stuck_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What the parser could not read, or one of the callbacks below complained about."""
        error, reason = self._complaint or (BadRequest(msg, code="malformed_request"), "malformed")
        self._refuse(error, reason)

    # --- what the parser calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._stage is not Stage.SILENT:  # else the clock has run since the client connected
            self._since = time.monotonic()
        self._stage = Stage.HEAD
        self._head_bytes = self._n_headers = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URI_BYTES:
            self._complain(UriTooLong(f"The path and query are longer than {MAX_URI_BYTES} bytes."), "uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._n_headers += 1
        if self._n_headers > MAX_HEADERS:
            error = HeadTooLarge(f"The request has more than {MAX_HEADERS} headers.", code="too_many_headers")
            self._complain(error, "too_many_headers")
        super().on_header(name, value)
        if sum(len(part) for header in self.headers for part in header) > self.settings.max_head_bytes:
            self._complain(self._head_too_large(), "head_too_large")

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._complain(TooManyRequests("Too many requests were sent ahead of their answers."), "pipelined")
        super().on_headers_complete()
        self._stage, self._since, self._body_bytes = Stage.BODY, time.monotonic(), 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stage, self._since = Stage.WHOLE, time.monotonic()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._stage is Stage.WHOLE:
            self._since = time.monotonic()

    # --- what the registry asks -----------------------------------------------------------------------------------

    @property
    def waits_since(self) -> float | None:
        """When the service began to wait for this client; None while the client waits for the service."""
        if self._stage is Stage.BODY:
            return None if self.flow.read_paused else self._since
        is_answering = self.cycle is not None and not self.cycle.response_complete
        return None if is_answering and self._stage is not Stage.REFUSED else self._since

    @property
    def is_sending_body(self) -> bool:
        return self._stage is Stage.BODY

    def cut(self) -> None:
        self.transport.abort()

    def look(self, now: float) -> None:
        elapsed, self._looked_at = now - self._looked_at, now
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > self.settings.send_seconds:
                self.cut()
        elif self._stuck_since is not None and now - self._stuck_since > self.settings.send_seconds:
            self.registry.refused["slow_reader"] += 1
            self.cut()
        elif self._stage is Stage.BODY and self.flow.read_paused:
            self._since += elapsed  # the service is what is slow here
        elif (since := self.waits_since) is not None and now - since > self._patience():
            self._give_up()

    # --- ends -----------------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds the client has in this stage."""
        if self._stage is Stage.BODY:
            return self.settings.body_seconds + self._body_bytes / BODY_BYTES_PER_SECOND
        if self._stage is Stage.WHOLE:
            return float(self.settings.keep_alive_seconds)
        return LINGER_SECONDS if self._stage is Stage.REFUSED else self.settings.head_seconds

    def _give_up(self) -> None:
        if self._stage is Stage.HEAD:
            self._refuse(RequestTimeout("The head of the request took too long to arrive."), "slow_head")
        elif self._stage is Stage.BODY:
            self._refuse(RequestTimeout("The body of the request came too slowly."), "slow_body")
        else:
            if self._stage is Stage.SILENT:
                self.registry.refused["silent"] += 1
            self.transport.close()

    def _head_too_large(self) -> HeadTooLarge:
        limit = self.settings.max_head_bytes
        return HeadTooLarge(f"The request line and headers have more than {limit} bytes together.")

    def _complain(self, error: AppError, reason: str) -> None:
        """Leaves the parser, which answers by `send_400_response`."""
        self._complaint = (error, reason)
        raise error

    def _may_answer(self) -> bool:
        """Whether the next answer on this connection is the one to the request that is refused."""
        if self._stage is Stage.BODY:
            return not (self.pipeline or self.cycle.response_started)
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: AppError, reason: str) -> None:
        """Answers for the application, which is told that the client is gone, and reads no further."""
        if self._stage is Stage.REFUSED or self.transport.is_closing():
            return
        self.registry.refused[reason] += 1
        may_answer, cycle = self._may_answer(), self.cycle
        self._stage, self._since = Stage.REFUSED, time.monotonic()
        if not may_answer:
            self.cut()
            return
        request_id = uuid4().hex
        log.info("connection_refused", reason=reason, status=error.status, request_id=request_id)
        path = self.url.partition(b"?")[0].decode("latin-1")  # as much of it as was read
        self.transport.write(_answer(error, request_id, path))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_reading()
        # Closed at once, with bytes of the client unread, the connection would be reset and the answer lost.
        self.transport.write_eof()


def limited_protocol(settings: Settings, registry: Connections) -> type[LimitedProtocol]:
    """The protocol of a server whose connections are kept in `registry`."""

    class Limited(LimitedProtocol):
        pass

    Limited.settings, Limited.registry = settings, registry
    return Limited


def _body_and_headers(error: AppError, request_id: str, path: str) -> tuple[bytes, dict[str, str]]:
    body = bytes(ProblemResponse(content(error.problem(request_id=request_id), path)).body)
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Request-ID": request_id,
    }
    return body, headers | SECURITY_HEADERS | error.headers


def _answer(error: AppError, request_id: str, path: str) -> bytes:
    body, headers = _body_and_headers(error, request_id, path)
    lines = [f"HTTP/1.1 {error.status} {error.title}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _overloaded(scope: Any, _receive: Any, send: Any) -> None:
    """Answers a connection for which there is no room."""
    error = Unavailable("Too many connections; try again.", code="overloaded", headers={"Retry-After": "1"})
    body, headers = _body_and_headers(error, uuid4().hex, scope["path"])
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
