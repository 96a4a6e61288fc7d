"""So many requests a minute for each key: counted in the broker, which all replicas of the API share.

A broker that is away or slow costs nobody a request: while it is, every process counts for itself.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooManyRequests
from app.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A request waits so long for the broker, at most.
BROKER_SECONDS = 0.25
#: A broker that failed is left alone so long.
PAUSE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What is left to somebody after this request; `reset_seconds` counts from now and is at least 1."""

    limit: int
    remaining: int
    reset_seconds: int
    is_exceeded: bool

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }


class RateLimiter:
    """Counts requests in windows of a minute, each beginning with its first request."""

    def __init__(self, settings: Settings) -> None:
        self._pool: ConnectionPool | None = None
        self._shared: FixedWindowRateLimiter | None = None
        self._own: FixedWindowRateLimiter | None = None
        self._shared_again_at = 0.0
        if not settings.requests_per_minute:
            return
        self._item = RateLimitItemPerMinute(settings.requests_per_minute)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._pool = _pool(settings.resolved_broker_url)
        if self._pool is not None:
            storage = RedisStorage("redis://", connection_pool=self._pool, key_prefix="metagraft")
            self._shared = FixedWindowRateLimiter(storage)

    def count(self, who: str) -> Allowance | None:
        """Counts one request of `who`; None where there is no limit. Nothing that the broker does raises here."""
        own = self._own
        if own is None:
            return None
        shared = self._shared
        if shared is not None and time.monotonic() >= self._shared_again_at:
            found = self._unless_away(lambda: self._count(shared, who))
            if found is not None:
                return found
        return self._count(own, who)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.disconnect()

    def _count(self, limiter: FixedWindowRateLimiter, who: str) -> Allowance:
        is_allowed = limiter.hit(self._item, who)
        window = limiter.get_window_stats(self._item, who)
        return Allowance(
            limit=self._item.amount,
            remaining=window.remaining,
            reset_seconds=max(1, math.ceil(window.reset_time - time.time())),
            is_exceeded=not is_allowed,
        )

    def _unless_away(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (RedisError, OSError) as error:
            self._shared_again_at = time.monotonic() + PAUSE_SECONDS
            log.warning("rate_limit_not_shared", reason=type(error).__name__, pause_seconds=PAUSE_SECONDS)
            return None


def _pool(broker_url: str) -> ConnectionPool | None:
    """Connections to a Redis or Valkey; None where the broker is of another kind."""
    url = broker_url.replace("redis+socket://", "unix://", 1)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return None
    return ConnectionPool.from_url(
        url, socket_connect_timeout=BROKER_SECONDS, socket_timeout=BROKER_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def count(request: Request, key_id: str | None) -> None:
    """Counts the request for its key, or for the client's address on an open service.

    Raises:
        TooManyRequests: (rate_limited) there were more than METAGRAFT_REQUESTS_PER_MINUTE.
    """
    limiter: RateLimiter = request.app.state.rate_limiter
    address = request.client.host if request.client else "unknown"
    allowance = limiter.count(key_id or f"address:{address}")
    if allowance is None:
        return
    request.state.allowance = allowance
    if allowance.is_exceeded:
        raise TooManyRequests(
            f"More than {allowance.limit} requests in a minute; go on in {allowance.reset_seconds} s.",
            code="rate_limited",
            headers={"Retry-After": str(allowance.reset_seconds)},
        )


class RateLimitHeaders:
    """Tells every counted client what is left to it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            allowance = scope.get("state", {}).get("allowance")
            if message["type"] == "http.response.start" and isinstance(allowance, Allowance):
                MutableHeaders(scope=message).update(allowance.headers)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
