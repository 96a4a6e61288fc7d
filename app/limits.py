"""No request body grows beyond its limit, declared or not: bytes are counted as they stream in."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings


def _declared_length(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _too_large(limit: int) -> HTTPException:
    # An HTTPException passes through FastAPI's body parsing unchanged; whoever is still sending is cut off.
    return HTTPException(413, f"The request body is larger than {limit} bytes.", headers={"Connection": "close"})


class BodyLimitMiddleware:
    """Raises 413 into the reader of a body: `max_upload_bytes` for uploads of datasets, else `max_request_bytes`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    def _limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/") == "/v1/datasets"
        return self.settings.max_upload_bytes if is_upload else self.settings.max_request_bytes

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
