"""Whose requests are answered: which names the service goes by, and which web pages may use it.

A page on the internet can make a browser send requests to a service on the same machine. Two things stop it. A page
that points its own name at 127.0.0.1 (DNS rebinding) sends that name as Host, which is not one of ours. A page that
posts without being able to read the answer sends its Origin, which an open service refuses.
"""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BadRequest, Forbidden, MisdirectedRequest
from app.settings import Settings

#: What hosts files call this machine, and what in-process clients do.
_LOOPBACK_NAMES = frozenset({
    "localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "testserver",
})  # fmt: skip
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{0,5}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_CORS_HEADERS = [
    "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Inference-Header-Content-Length", "Last-Event-ID",
    "X-Request-ID",
]  # fmt: skip
_EXPOSED_HEADERS = [
    "ETag", "Idempotency-Replayed", "Inference-Header-Content-Length", "Location", "RateLimit-Limit",
    "RateLimit-Remaining", "RateLimit-Reset", "Retry-After", "X-Request-ID",
]  # fmt: skip


@lru_cache(maxsize=256)
def split_host(header: str) -> tuple[str, str] | None:
    """Name (lower case, without brackets and final dot) and port ("" where none) of a Host header; None: malformed."""
    text = header.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        is_whole = bool(bracket) and (not rest or rest.startswith(":")) and _is_address(name)
        port = rest[1:]
    elif _is_address(text):
        return text, ""
    else:
        name, _, port = text.partition(":")
        name = name.removesuffix(".")
        is_whole = _NAME.fullmatch(name) is not None
    return (name, port) if is_whole and _PORT.fullmatch(port) else None


@lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_trusted(name: str, settings: Settings) -> bool:
    """Whether the service goes by `name`. No page can point an address, or a name for loopback, somewhere else."""
    is_number = name.rpartition(".")[2].isdigit()  # 127.1 is an address too
    if is_number or _is_address(name) or name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    patterns = settings.trusted_host_patterns
    if not patterns:
        return not settings.is_loopback
    return any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    return pattern in {"*", name} or (pattern.startswith("*.") and name.endswith(pattern[1:]))


class TrustedHosts:
    """Answers only requests to a name of this service."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_host(scope, self.settings)
        await self.app(scope, receive, send)


def _check_host(scope: Scope, settings: Settings) -> None:
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if not given and scope.get("http_version") == "1.0":
        return
    host = split_host(given[0]) if len(given) == 1 else None
    if host is None:
        raise BadRequest("Send one Host header with a host name or address.", code="malformed_host")
    if not is_trusted(host[0], settings):
        raise MisdirectedRequest(
            f"This service does not go by the name '{host[0]}'; METAGRAFT_TRUSTED_HOSTS names those it goes by.",
            code="untrusted_host",
        )


def check_origin(request: Request, settings: Settings) -> None:
    """For a request that needed no key.

    Raises:
        Forbidden: it would change something and comes from a web page of another origin.
    """
    origin = request.headers.get("origin")
    if request.method in _SAFE_METHODS or origin is None or _is_own(origin, request.headers.get("host", "")):
        return
    allowed = settings.cors_origin_list
    if "*" in allowed or origin.lower() in allowed:
        return
    raise Forbidden(
        "A web page of another origin may not use this service while it needs no key. "
        "METAGRAFT_CORS_ORIGINS names the origins that may.",
        code="foreign_origin",
    )


def _is_own(origin: str, host_header: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    ours, theirs = split_host(host_header), split_host(parts.netloc)
    if ours is None or theirs is None:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme, "")
    return (ours[0], ours[1] or default) == (theirs[0], theirs[1] or default)


def install(app: FastAPI, settings: Settings) -> None:
    """No page of another origin may read answers unless METAGRAFT_CORS_ORIGINS names it."""
    if origins := settings.cors_origin_list:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=_CORS_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
    app.add_middleware(TrustedHosts, settings=settings)
