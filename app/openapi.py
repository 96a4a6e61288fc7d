"""The API's description, made true in one place: every status an operation answers with, and the headers it sets.

Routes declare what is their own (models, media types). What follows from the shape of an operation (it has a body, a
parameter, a key to check, a row to find) is declared here.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from app.errors import BY_STATUS, Problem

_MEDIA_TYPE = "application/problem+json"
_METHODS = ("get", "put", "post", "delete", "patch")
#: From before the application is asked (app/protocol.py, app/hosts.py), or because a server is away.
_ALWAYS = frozenset({400, 408, 414, 421, 431, 503})
#: What does not show in the shape of an operation.
_ALSO: dict[tuple[str, str], frozenset[int]] = {
    ("post", "/v1/jobs/{job_id}/cancel"): frozenset({409}),
    ("get", "/v1/jobs/{job_id}/result"): frozenset({409}),
    ("post", "/v1/keys/{key_id}/rotate"): frozenset({409}),
    ("put", "/v1/models/{name}/aliases/{alias}"): frozenset({409, 428}),
    ("post", "/v1/models/{name}/aliases/{alias}/rollback"): frozenset({409}),
}
_LOCATED = frozenset({
    ("post", "/v1/datasets"), ("post", "/v1/jobs"), ("post", "/v1/jobs/{job_id}/cancel"),
    ("post", "/v1/jobs/{job_id}/retry"),
})  # fmt: skip
_TAGGED = frozenset({
    ("get", "/v1/models/{name}/aliases/{alias}"), ("put", "/v1/models/{name}/aliases/{alias}"),
    ("post", "/v1/models/{name}/aliases/{alias}/rollback"),
})  # fmt: skip
#: Operations that wait for an encoder, with a deadline.
_ANSWERED = ("/predict", "/infer")
#: Where there is one of these, the route looks at the media type itself.
_CHOSEN_MEDIA = ("multipart/form-data", "application/octet-stream")
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def statuses(method: str, path: str, operation: dict[str, Any]) -> frozenset[int]:
    """The errors that the operation may answer."""
    found = set(_ALWAYS | _ALSO.get((method, path), frozenset()))
    content = operation.get("requestBody", {}).get("content", {})
    headers = {item["name"].lower() for item in operation.get("parameters", []) if item["in"] == "header"}
    if operation.get("security"):
        found |= {401, 403, 429}
    if operation.get("parameters") or content:
        found.add(422)
    if content:
        found.add(413)
    if not content.keys().isdisjoint(_CHOSEN_MEDIA):
        found.add(415)
    if "{" in path:
        found.add(404)
    if method == "delete" or "idempotency-key" in headers:
        found.add(409)
    if "if-match" in headers:
        found.add(412)
    if path.endswith(_ANSWERED):
        found.add(504)
    return frozenset(found)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield method, path, item[method]


def _name(status: int) -> str:
    return "".join(word.capitalize() for word in BY_STATUS[status].title.split())


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


def _add_components(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    for name, schema in {**problem.pop("$defs", {}), "Problem": problem}.items():
        schemas.setdefault(name, schema)
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    components["headers"] = {"RequestId": _header("Names this request in the log; the caller's own, where it sent one")}
    components["responses"] = {
        _name(status): {
            "description": f"{error.title}: a problem with the code `{error.code}` or one that says more",
            "headers": {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}},
            "content": {_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, error in BY_STATUS.items()
    }


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    declared = {int(status) for status in responses if int(status) in BY_STATUS}
    for status in statuses(method, path, operation) | declared:
        responses[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
    for status, response in responses.items():
        if int(status) < 300:
            headers = response.setdefault("headers", {})
            headers["X-Request-ID"] = {"$ref": "#/components/headers/RequestId"}
            if (method, path) in _LOCATED:
                headers["Location"] = _header("Where it is found from now on")
            if (method, path) in _TAGGED:
                headers["ETag"] = _header("For If-Match")
    operation["responses"] = dict(sorted(responses.items()))


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document that FastAPI made, with every status and header added to it."""
    _add_components(document)
    for method, path, operation in _operations(document):
        _complete(method, path, operation)
    return document


def install(app: FastAPI) -> None:
    """Has /openapi.json give the completed document."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(describe())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
