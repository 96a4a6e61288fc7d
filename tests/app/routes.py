"""Every route of an application, found by walking it: a route that somebody adds is tested without being listed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Host, Mount

from app.security import Requirement

#: Everybody may read these; what is below /docs/ belongs to the page.
PUBLIC = frozenset({
    "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs", "/docs/oauth2-redirect",
    "/redoc",
})  # fmt: skip

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True)
class Endpoint:
    """One method of one route; `requirements` are the `require(...)` it depends on."""

    method: str
    path: str
    requirements: frozenset[Requirement]

    @property
    def is_public(self) -> bool:
        return self.path in PUBLIC or self.path.startswith("/docs/")

    @property
    def parameters(self) -> list[str]:
        return _PARAMETER.findall(self.path)

    def url(self, values: Mapping[str, str] | None = None) -> str:
        """The path with its parameters filled in, by `nothing` or 1 where `values` does not know one."""
        known = {"number": "1", "row": "1"} | dict(values or {})
        return _PARAMETER.sub(lambda match: known.get(match.group(1), "nothing"), self.path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def endpoints(app: FastAPI) -> list[Endpoint]:
    """All of them, those of mounted applications included."""
    return list(_walk(app.routes, ""))


def _walk(routes: Sequence[BaseRoute | RouteContext], prefix: str) -> Iterator[Endpoint]:
    for context in iter_route_contexts(routes):
        path = prefix + (context.path or "")
        if isinstance(context.original_route, Mount | Host):
            inside = list(_walk(context.original_route.routes or [], path))
            # What a mounted application answers is its own affair, so any path below it has to be refused.
            yield from inside or [Endpoint("GET", f"{path}/{{anything}}", frozenset())]
            continue
        for method in sorted((context.methods or {"WEBSOCKET"}) - {"HEAD"}):
            yield Endpoint(method, path, frozenset(_requirements(getattr(context, "dependant", None))))


def _requirements(dependant: Dependant | None) -> Iterator[Requirement]:
    if dependant is None:
        return
    if isinstance(dependant.call, Requirement):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _requirements(inner)


def send(client: Any, endpoint: Endpoint, authorization: str | None, **values: Any) -> Any:
    """The answer to a request without a body, or with what `values` give httpx."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.request(endpoint.method, values.pop("url", None) or endpoint.url(), headers=headers, **values)
