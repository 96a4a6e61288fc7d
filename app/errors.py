"""Errors of the service, and the one place where any error becomes an RFC 9457 problem.

AppError                 status  code
├── BadRequest            400    bad_request
├── NotFound              404    not_found
├── Conflict              409    conflict (or a more exact word)
├── RequestTimeout        408    request_timeout
├── PreconditionFailed    412    precondition_failed
├── PreconditionRequired  428    precondition_required
├── PayloadTooLarge       413    payload_too_large
├── UriTooLong            414    uri_too_long
├── UnsupportedMedia      415    unsupported_media_type
├── MisdirectedRequest    421    misdirected_request
├── InvalidInput          422    invalid_input: carries `errors`, one entry per bad row, column or field
├── Unauthorized          401    unauthorized
├── Forbidden             403    forbidden
├── TooManyRequests       429    too_many_requests
├── HeadTooLarge          431    head_too_large
├── ArtifactCorrupted     500    artifact_corrupted: a stored model is damaged; the operator restores it
├── Unavailable           503    unavailable: try again
│   └── Overloaded               overloaded: too much waits already; carries Retry-After
└── DeadlineExceeded      504    deadline_exceeded: try again
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from learning.errors import LearningError

log = structlog.get_logger(__name__)


class ErrorItem(BaseModel):
    """One thing that is wrong: where, what, and what to do. `row` counts data rows from 1."""

    pointer: str | None = None
    row: int | None = None
    column: str | None = None
    code: str
    message: str
    hint: str | None = None


class Problem(BaseModel):
    """RFC 9457 problem details; the same object stands in `job.error`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str
    request_id: str | None = None
    retryable: bool = False
    errors: list[ErrorItem] = []


class AppError(Exception):
    """Root of the service's errors. `errors` names rows, columns or fields; `headers` go on the response."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[ErrorItem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.errors = list(errors)
        self.headers = dict(headers or {})

    def problem(self, *, instance: str | None = None, request_id: str | None = None) -> Problem:
        return Problem(
            type=f"urn:metagraft:problem:{self.code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            code=self.code,
            request_id=request_id,
            retryable=self.retryable,
            errors=self.errors,
        )


class BadRequest(AppError):
    status, code, title = 400, "bad_request", "Bad request"


class NotFound(AppError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"


class RequestTimeout(AppError):
    status, code, title, retryable = 408, "request_timeout", "Request timeout", True


class PreconditionFailed(AppError):
    status, code, title = 412, "precondition_failed", "Precondition failed"


class PreconditionRequired(AppError):
    status, code, title = 428, "precondition_required", "Precondition required"


class PayloadTooLarge(AppError):
    status, code, title = 413, "payload_too_large", "Payload too large"


class UriTooLong(AppError):
    status, code, title = 414, "uri_too_long", "URI too long"


class UnsupportedMedia(AppError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class MisdirectedRequest(AppError):
    status, code, title = 421, "misdirected_request", "Misdirected request"


class InvalidInput(AppError):
    status, code, title = 422, "invalid_input", "Invalid input"


class Unauthorized(AppError):
    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "Forbidden"


class TooManyRequests(AppError):
    status, code, title, retryable = 429, "too_many_requests", "Too many requests", True


class HeadTooLarge(AppError):
    status, code, title = 431, "head_too_large", "Request header fields too large"


class Unavailable(AppError):
    status, code, title, retryable = 503, "unavailable", "Service unavailable", True


class Overloaded(Unavailable):
    """Too much waits already; the response carries Retry-After."""

    code, title = "overloaded", "Overloaded"


class DeadlineExceeded(AppError):
    status, code, title, retryable = 504, "deadline_exceeded", "Deadline exceeded", True


class ArtifactCorrupted(AppError):
    """Not the client's fault, and not over by itself: only an operator can mend a stored model."""

    status, code, title = 500, "artifact_corrupted", "Artifact corrupted"


class InternalError(AppError):
    status, code, title = 500, "internal_error", "Internal error"


BY_STATUS: dict[int, type[AppError]] = {
    error.status: error
    for error in (
        BadRequest, Unauthorized, Forbidden, NotFound, RequestTimeout, Conflict, PreconditionFailed, PayloadTooLarge,
        UriTooLong, UnsupportedMedia, MisdirectedRequest, InvalidInput, PreconditionRequired, TooManyRequests,
        HeadTooLarge, Unavailable, DeadlineExceeded,
    )
}  # fmt: skip


def from_learning(error: LearningError) -> AppError:
    """A learning error as the client's error: the data or the options are at fault, not the service."""
    item = ErrorItem(code=error.code, message=str(error), hint=error.hint or None)
    return InvalidInput(str(error), code=error.code, errors=[item])


def json_pointer(location: Sequence[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def items_from_validation(error: ValidationError | RequestValidationError, prefix: str = "") -> list[ErrorItem]:
    """Pydantic's complaints as error items; the offending input itself is never echoed."""
    return [
        ErrorItem(pointer=prefix + json_pointer(list(entry["loc"])), code=str(entry["type"]), message=str(entry["msg"]))
        for entry in error.errors()
    ]


def _from_http(error: HTTPException | ClientDisconnect) -> AppError:
    if isinstance(error, ClientDisconnect):
        return BadRequest("The request broke off before its end.", code="request_broken_off")
    if error.status_code == 405:
        return _MethodNotAllowed(str(error.detail), headers=error.headers)
    kind = BY_STATUS.get(error.status_code, BadRequest if error.status_code < 500 else InternalError)
    return kind(str(error.detail), headers=error.headers)


class _MethodNotAllowed(AppError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


def _is_database_away(error: Exception) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, PoolTimeout | OperationalError)


def as_app_error(error: Exception) -> AppError:
    """Any exception as an `AppError`; what is not understood becomes an internal error without its text."""
    if isinstance(error, AppError):
        return error
    if isinstance(error, LearningError):
        return from_learning(error)
    if isinstance(error, RequestValidationError | ValidationError):
        items = items_from_validation(error)
        return InvalidInput(f"{len(items)} problem(s) with the request: {items[0].message}", errors=items)
    if isinstance(error, HTTPException | ClientDisconnect):
        return _from_http(error)
    if _is_database_away(error):
        return Unavailable("The database is busy or away; try again.", headers={"Retry-After": "1"})
    return InternalError("Something went wrong on our side; the request id finds it in the log.")


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by null, which is all that JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


async def handle(request: Request, error: Exception) -> ProblemResponse:
    """The one exception handler of the API."""
    app_error = as_app_error(error)
    path = request.scope["path"]  # a URL cannot be made of every Host header
    if app_error.status >= 500:
        log.error("request_failed", path=path, code=app_error.code, exc_info=error)
    request_id = getattr(request.state, "request_id", None)
    request.state.problem_code = app_error.code
    problem = app_error.problem(instance=path, request_id=request_id)
    return ProblemResponse(content(problem, path), status_code=problem.status, headers=app_error.headers)


def content(problem: Problem, path: str) -> dict[str, Any]:
    """The JSON of an answer to a request for `path`."""
    told = problem.model_dump(mode="json")
    is_open_inference = path == "/v2" or path.startswith("/v2/")
    return told | {"error": problem.detail} if is_open_inference else told  # all that clients of that protocol read


def install(app: FastAPI) -> None:
    for kind in (AppError, LearningError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
