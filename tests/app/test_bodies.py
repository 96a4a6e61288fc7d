"""Bodies of very many fields: one error that names the first, and never an error for each."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.schemas import MAX_FIELDS

MANY = {f"field{number}": 1 for number in range(MAX_FIELDS + 1)}
TENSOR = {"name": "size", "datatype": "FP64", "shape": [1], "data": [1]}
BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/models/m/predict", {"inputs": ["a"]}),
    ("POST", "/v1/models/m/feedback", {"input": "a", "label": "b"}),
    ("PUT", "/v1/models/m/aliases/champion", {"version": 1}),
    ("POST", "/v1/jobs", {"kind": "batch_predict", "model": "m", "dataset": "ds_" + "0" * 32}),
    ("POST", "/v1/keys", {"name": "n", "scopes": ["admin"]}),
    ("POST", "/v2/models/m/infer", {"inputs": [TENSOR]}),
    ("POST", "/v2/repository/index", {"ready": True}),
]
NESTED: list[tuple[str, dict[str, Any]]] = [
    ("/body/inputs/0", {"inputs": [TENSOR | MANY]}),
    ("/body/outputs/0", {"inputs": [TENSOR], "outputs": [{"name": "label"} | MANY]}),
    ("/body/parameters", {"inputs": [TENSOR], "parameters": MANY}),
    ("/body/inputs/0/parameters", {"inputs": [TENSOR | {"parameters": MANY}]}),
]


def only_error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    return dict(error)


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_body_is_refused_by_one_error_when_it_has_very_many_unknown_fields(
    client: TestClient, method: str, path: str, body: dict[str, Any]
) -> None:
    error = only_error(client.request(method, path, json=body | MANY))
    assert error["code"] == "too_many_fields"
    assert f"{len(body) + len(MANY)} fields were sent, at most {MAX_FIELDS} are taken" in error["message"]
    assert error["message"].endswith("'field0', 'field1', 'field2', 'field3', 'field4', 'field5', 'field6', 'field7', "
                                     "'field8', 'field9'")  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_body_is_refused_by_each_unknown_field_when_they_are_few(
    client: TestClient, method: str, path: str, body: dict[str, Any]
) -> None:
    errors = client.request(method, path, json=body | {"one": 1, "two": 2}).json()["errors"]
    assert [(error["code"], error["pointer"].rpartition("/")[2]) for error in errors] == [
        ("extra_forbidden", "one"),
        ("extra_forbidden", "two"),
    ]


@pytest.mark.parametrize(("pointer", "body"), NESTED)
def test_infer_call_is_refused_by_one_error_when_a_part_of_it_has_very_many_fields(
    client: TestClient, pointer: str, body: dict[str, Any]
) -> None:
    error = only_error(client.post("/v2/models/m/infer", json=body))
    assert (error["pointer"], error["code"]) == (pointer, "too_many_fields")


def test_job_is_refused_by_one_error_when_it_has_very_many_options(client: TestClient) -> None:
    body = {"kind": "adapt", "model": "m", "dataset": "ds_" + "0" * 32, "options": MANY}
    error = only_error(client.post("/v1/jobs", json=body))
    assert (error["pointer"], error["code"]) == ("/body/adapt/options", "too_long")


@pytest.mark.parametrize("path", ["/v1/models/m/predict", "/v1/models/m/feedback"])
def test_names_are_cut_when_they_are_long(client: TestClient, path: str) -> None:
    error = only_error(client.post(path, json={"x" * 1_000 + name: 1 for name in MANY}))
    assert len(error["message"]) < 1_000


def test_names_are_told_when_they_are_no_unicode(client: TestClient) -> None:
    # Python's reader of JSON, by which this route's body is read, lets them pass.
    body = json.dumps({"\ud800" + name: 1 for name in MANY})
    headers = {"Content-Type": "application/json"}
    error = only_error(client.post("/v1/models/m/feedback", content=body, headers=headers))
    assert "'\\ud800field0'" in error["message"]
