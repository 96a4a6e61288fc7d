"""Routes that resolve what their endpoints ask for without FastAPI's machinery, which takes as long as half a tabular
prediction. Their description in /openapi.json is FastAPI's, as the endpoints are declared like any others.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

Resolve = Callable[[Request], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Value:
    """A parameter that stands in the path or the query."""

    name: str
    place: str
    adapter: TypeAdapter[Any]
    default: Any

    def read(self, request: Request) -> Any:
        """Raises `ValidationError`."""
        given: Mapping[str, Any] = request.path_params if self.place == "path" else request.query_params
        return self.adapter.validate_python(given[self.name]) if self.name in given else self.default


class DirectRoute(APIRoute):
    """Its endpoint is a coroutine that returns the response.

    It may take the request, values of the path, optional ones of the query, and what coroutines make of the request.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Raises `TypeError` where the endpoint takes anything else."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint
        found = inspect.signature(endpoint, eval_str=True).parameters
        requests = [name for name, parameter in found.items() if parameter.annotation is Request]
        resolved = {name: _dependency(parameter) for name, parameter in found.items() if _depends(parameter)}
        values = [
            self._value(parameter) for name, parameter in found.items() if name not in {*requests, *resolved}
        ]  # fmt: skip

        async def handle(request: Request) -> Response:
            arguments: dict[str, Any] = dict.fromkeys(requests, request)
            for name, resolve in resolved.items():
                arguments[name] = await resolve(request)
            return await endpoint(**arguments, **_read(values, request))

        return handle

    def _value(self, parameter: inspect.Parameter) -> _Value:
        place = "path" if parameter.name in self.param_convertors else "query"
        if place == "query" and parameter.default is parameter.empty:
            raise TypeError(f"{self.path}: '{parameter.name}' of the query needs a default")
        adapter: TypeAdapter[Any] = TypeAdapter(parameter.annotation)
        return _Value(name=parameter.name, place=place, adapter=adapter, default=parameter.default)


def _read(values: list[_Value], request: Request) -> dict[str, Any]:
    """Raises `RequestValidationError` with all that is wrong."""
    found, wrong = {}, []
    for value in values:
        try:
            found[value.name] = value.read(request)
        except ValidationError as error:
            wrong += [{**item, "loc": (value.place, value.name, *item["loc"])} for item in error.errors()]
    if wrong:
        raise RequestValidationError(wrong)
    return found


def _depends(parameter: inspect.Parameter) -> params.Depends | None:
    return next((item for item in get_args(parameter.annotation) if isinstance(item, params.Depends)), None)


def _dependency(parameter: inspect.Parameter) -> Resolve:
    depends = _depends(parameter)
    resolve: Any = None if depends is None else depends.dependency
    if not (inspect.iscoroutinefunction(resolve) or inspect.iscoroutinefunction(getattr(resolve, "__call__", None))):  # noqa: B004
        raise TypeError(f"'{parameter.name}' is not made by a coroutine")
    if len(inspect.signature(resolve).parameters) != 1:
        raise TypeError(f"'{parameter.name}' is not made of the request alone")
    found: Resolve = resolve
    return found
