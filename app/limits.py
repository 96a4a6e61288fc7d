"""No request body grows beyond its limit, declared or not: bytes are counted as they stream in."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings

#: Every other route takes a few names and numbers, and its JSON is read on the event loop.
_WITH_INPUTS = ("/predict", "/infer", "/feedback")
MAX_SMALL_BYTES = 2**20


def _declared_length(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _too_large(limit: int) -> HTTPException:
    # An HTTPException passes through FastAPI's body parsing unchanged; whoever is still sending is cut off.
    return HTTPException(413, f"The request body is larger than {limit} bytes.", headers={"Connection": "close"})


class BodyLimitMiddleware:
    """Raises 413 into the reader of a body.

    The limit is `max_upload_bytes` for uploads of datasets and `max_request_bytes` for a model's inputs. Other bodies
    have `MAX_SMALL_BYTES`, or that where it is less.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    def _limit(self, scope: Scope) -> int:
        path, most = scope["path"].rstrip("/"), self.settings.max_request_bytes
        if scope["method"] == "POST" and path == "/v1/datasets":
            return self.settings.max_upload_bytes
        return most if path.endswith(_WITH_INPUTS) else min(most, MAX_SMALL_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope)
        declared = _declared_length(scope)
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared > limit:
                raise _too_large(limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, counted, send)
