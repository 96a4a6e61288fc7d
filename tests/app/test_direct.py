"""Routes that resolve their parameters themselves answer as FastAPI's own do."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from app import errors
from app.direct import DirectRoute
from app.errors import Forbidden


async def _caller(request: Request) -> str:
    if "who" not in request.headers:
        raise Forbidden("nobody")
    return request.headers["who"]


async def _endpoint(
    *,
    name: Annotated[str, Path(max_length=5)],
    number: Annotated[int, Path(ge=1)],
    caller: Annotated[str, Depends(_caller)],
    request: Request,
    alias: Annotated[str, Query(pattern="^[a-z]+$")] = "latest",
) -> Response:
    return JSONResponse([name, number, caller, request.method, alias])


@pytest.fixture
def clients() -> Iterator[list[TestClient]]:
    """Of the same endpoint behind a direct route and behind FastAPI's own."""
    found = []
    for kind in ({"route_class": DirectRoute}, {}):
        router = APIRouter(prefix="/v1", **kind)  # type: ignore[arg-type]
        router.post("/{name}/{number}")(_endpoint)
        app = FastAPI()
        app.include_router(router)
        errors.install(app)
        found.append(TestClient(app, raise_server_exceptions=False))
    yield found
    for client in found:
        client.close()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/abc/3", {"who": "me"}),
        ("/v1/abc/3?alias=best", {"who": "me"}),
        ("/v1/abc/3?alias=a&alias=b", {"who": "me"}),
        ("/v1/abc/3?alias=", {"who": "me"}),
        ("/v1/abc/3?other=1", {"who": "me"}),
        ("/v1/abcdef/0?alias=7", {"who": "me"}),
        ("/v1/abc/x", {"who": "me"}),
        ("/v1/abc/1.0", {"who": "me"}),
        ("/v1/abc/3", {}),
        ("/v1/abcdef/0", {}),
    ],
)
def test_direct_route_answers_as_any_other(clients: list[TestClient], path: str, headers: dict[str, str]):
    direct, usual = [client.post(path, headers=headers) for client in clients]
    assert direct.status_code == usual.status_code
    assert _without_id(direct.json()) == _without_id(usual.json())


def _without_id(body: Any) -> Any:
    return {key: value for key, value in body.items() if key != "request_id"} if isinstance(body, dict) else body


def test_direct_route_is_described_as_any_other(clients: list[TestClient]):
    first, second = [client.get("/openapi.json").json() for client in clients]
    assert first["paths"]
    assert first == second


def _plain(request: Request) -> str:
    return request.method


async def _of_two(request: Request, name: str) -> str:
    return request.method + name


async def _takes_plain(made: Annotated[str, Depends(_plain)]) -> Response:
    return Response(made)


async def _takes_two(made: Annotated[str, Depends(_of_two)]) -> Response:
    return Response(made)


async def _takes_required(word: str) -> Response:
    return Response(word)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        (_takes_plain, "'made' is not made by a coroutine"),
        (_takes_two, "'made' is not made of the request alone"),
        (_takes_required, "'word' of the query needs a default"),
    ],
)
def test_endpoint_is_refused_when_a_direct_route_cannot_serve_it(
    endpoint: Callable[..., Awaitable[Response]], complaint: str
):
    with pytest.raises(TypeError, match=complaint):
        APIRouter(route_class=DirectRoute).post("/")(endpoint)
