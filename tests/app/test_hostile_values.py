"""Values that databases, parsers and JSON writers trip over: a client's error on both databases, never the service's.

Every operation of the API's own description is asked with each value in every place that it takes one.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.ids import new_id
from tests.app.adapted import publish, services_of
from tests.jobs import queued, upload

#: As JSON texts: no JSON writer would write some of them.
NUMBERS = ("NaN", "-Infinity", "1e400", "9223372036854775808", "-9223372036854775809", "9" * 5_000, "1.5")
TEXTS = ('"a\\u0000b"', '"\\ud800"', '"\\udfff\\ud800"', '"' + "x" * 200_000 + '"')
SHAPES = ("null", "true", "[]", "{}", "[[[[]]]]", "[" * 3_000 + "]" * 3_000, '{"a":' * 3_000 + "1" + "}" * 3_000)

#: As they stand in a path or query.
UNSTORABLE = ("%00", "a%00b", "%ED%A0%80", "%ED%A0%80%ED%B0%80", "%FF%FE")
ODD = ("NaN", "1e400", "9223372036854775808", "-1", "%F0%9F%92%A3", "%2e%2e%2fx", "x" * 5_000, "'%20OR%201=1--", "%")

#: Those that any operation may be sent are tried on a few.
HEADERS = ("Authorization", "X-Request-ID", "Accept", "Content-Type", "Cookie")
EXAMPLES = (
    "/v1/models",
    "/v1/jobs",
    "/v1/jobs/{job_id}/events",
    "/v1/models/{name}/predict",
    "/v2/models/{name}/infer",
)
HEADER_VALUES = (b"", b"\x80\xff", b"x" * 5_000, b"9223372036854775808", b"1e400", b'"')

VALID: dict[str, dict[str, Any]] = {
    "/v1/jobs adapt": {
        "kind": "adapt", "dataset": "DATASET", "model": "m2", "strategy": "auto", "sources": [], "meta_learner": None,
        "options": {}, "seed": 0,
    },
    "/v1/jobs meta_train": {"kind": "meta_train", "name": "n", "sources": ["DATASET"], "options": {}, "seed": 0},
    "/v1/jobs batch_predict": {"kind": "batch_predict", "model": "m", "dataset": "DATASET"},
    "/v1/keys": {"name": "n", "scopes": ["admin"], "expires_at": "2100-01-01T00:00:00Z"},
    "/v1/models/m/predict": {"inputs": [{"size": 1}], "top_k": 1, "explain": False},
    "/v1/models/m/feedback": {"input": {"size": 1, "colour": "red"}, "label": "big"},
    "/v2/models/m/infer": {
        "inputs": [{"name": "size", "datatype": "FP64", "shape": [1], "data": [1]}], "outputs": [{"name": "label"}],
        "parameters": {"binary_data_output": False},
    },
}  # fmt: skip
#: What a field may well be although it looks odd.
LEGAL = {
    ("sources", "null"), ("sources", "[]"), ("meta_learner", "null"), ("options", "{}"), ("expires_at", "null"),
    ("explain", "true"), ("inputs", "[[[[]]]]"), ("label", "9223372036854775808"), ("label", "-9223372036854775809"),
    ("outputs", "[]"), ("parameters", "{}"),
}  # fmt: skip
LEGAL_OF_A_TENSOR = {
    ("data", "[NaN]"), ("data", "[null]"), ("data", "[-1]"), ("data", "[9223372036854775808]"), ("parameters", "{}"),
}  # fmt: skip


@pytest.fixture
def filled(client: TestClient) -> dict[str, str]:
    """A service that has one of everything; names of path parameters to what is there."""
    publish(services_of(client), "m")
    return {
        "dataset_id": upload(client), "job_id": queued(services_of(client)), "name": "m", "number": "1",
        "alias": "latest", "row": "1", "key_id": new_id("key"), "meta_learner_id": new_id("ml"),
    }  # fmt: skip


def operations(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in client.get("/openapi.json").json()["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def check(answer: Any, about: object, *, refused: bool = False) -> None:
    """No error of the service; a client's error is a problem; whatever is JSON is JSON in the narrow sense."""
    assert answer.status_code < 500, (about, answer.text[:300])
    assert not refused or answer.status_code >= 400, (about, answer.text[:300])
    kind = answer.headers.get("content-type", "")
    if answer.status_code >= 400:
        assert kind == "application/problem+json", (about, kind)
    if "json" in kind and answer.content:
        json.loads(answer.content, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def bodies(dataset: str) -> Iterator[tuple[str, str, str, str]]:
    """(path, field, value, body): each valid body with one value replaced, each as JSON text."""
    for name, valid in VALID.items():
        path = name.split()[0]
        for field in valid:
            for value in (*NUMBERS, *TEXTS, *SHAPES):
                parts = [f"{json.dumps(key)}: {value if key == field else json.dumps(valid[key])}" for key in valid]
                yield path, field, value, "{" + ", ".join(parts).replace("DATASET", dataset) + "}"


def test_field_of_a_body_is_refused_when_its_value_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json"}
    for path, field, value, body in bodies(filled["dataset_id"]):
        answer = client.post(path, content=body, headers=headers)
        check(answer, (path, field, value[:40]), refused=(field, value) not in LEGAL)


def test_whole_body_is_refused_when_it_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=b", ""):
        for body in (b"", b"\xff\xfe", b"\x00", b"{", b"--b\r\n", b"NaN", b"9" * 5_000, b"[]", b"[" * 3_000):
            for path in {name.split()[0] for name in VALID} | {"/v1/datasets"}:
                answer = client.post(path, content=body, headers={"Content-Type": kind})
                check(answer, (path, kind, body[:40]), refused=True)


def test_input_of_a_prediction_fails_alone_when_it_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    for value in (*NUMBERS, *TEXTS, *SHAPES):
        body = f'{{"inputs": [{{"size": 1}}, {value}, {{"size": {value}}}, {{"colour": {value}}}, {{"size": 9}}]}}'
        answer = client.post("/v1/models/m/predict", content=body, headers={"Content-Type": "application/json"})
        check(answer, value[:40])
        if answer.status_code == 200:
            predictions = answer.json()["predictions"]
            assert len(predictions) == 5
            assert all("label" in predictions[place] for place in (0, 4))
            assert "error" in predictions[1]


def test_field_of_a_tensor_is_refused_when_its_value_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    valid: dict[str, Any] = {"name": "size", "datatype": "FP64", "shape": [1], "data": [1], "parameters": {}}
    for field in valid:
        for value in (*NUMBERS, *TEXTS, *SHAPES, "[NaN]", "[null]", "[-1]", "[9223372036854775808]", "[1, 1, 1]"):
            parts = [f"{json.dumps(key)}: {value if key == field else json.dumps(valid[key])}" for key in valid]
            body = f'{{"inputs": [{{{", ".join(parts)}}}]}}'
            answer = client.post("/v2/models/m/infer", content=body, headers={"Content-Type": "application/json"})
            check(answer, (field, value[:40]), refused=(field, value) not in LEGAL_OF_A_TENSOR)


def test_path_is_not_found_or_refused_when_it_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    for method, path, operation in operations(client):
        names = [item["name"] for item in operation.get("parameters", []) if item["in"] == "path"]
        for name in names:
            for value in (*UNSTORABLE, *ODD):
                filling = filled | {name: value}
                url = path.format(**{each: filling[each] for each in names})
                is_name = (name, value) == ("alias", "NaN")
                check(client.request(method, url, json={"version": 1}), (method, url[:80]), refused=not is_name)


def test_query_is_no_error_of_the_service_when_it_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    for method, path, operation in operations(client):
        parameters = operation.get("parameters", [])
        names = [item["name"] for item in parameters if item["in"] == "query"]
        where = path.format(**{item["name"]: filled[item["name"]] for item in parameters if item["in"] == "path"})
        for name in names:
            for value in (*UNSTORABLE, *ODD):
                answer = client.request(method, f"{where}?{name}={value}", json={"inputs": [{"size": 1}]})
                check(answer, (method, where, name, value[:40]), refused="%00" in value)


def test_header_is_no_error_of_the_service_when_it_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    for method, path, operation in operations(client):
        parameters = operation.get("parameters", [])
        where = path.format(**{item["name"]: filled[item["name"]] for item in parameters if item["in"] == "path"})
        declared = [item["name"] for item in parameters if item["in"] == "header"]
        for header in (*declared, *(HEADERS if path in EXAMPLES else ())):
            for value in HEADER_VALUES:
                sent: Any = {header: value}
                check(client.request(method, where, content=b"{}", headers=sent), (method, where, header, value[:40]))


def test_part_of_a_form_is_refused_when_its_head_is_hostile(client: TestClient, filled: dict[str, str]) -> None:
    def form(head: bytes) -> bytes:
        return b"--b\r\n" + head + b"\r\n\r\n1\r\n--b--\r\n"

    name = b'Content-Disposition: form-data; name="name"'
    heads = [
        b"", b"X: y", name + b"; x=" + b"y" * 100_000, name + b"\r\nX: y" * 1_000, b"Content-Disposition: \xff\xfe",
        b'Content-Disposition: form-data; name="\x00"', b'Content-Disposition: form-data; name="' + b"n" * 5_000 + b'"',
        b"Content-Disposition: form-data; name*=utf-8''%ED%A0%80", name + b"\r\nContent-Type: \x80", b"\x00: x", b": x",
    ]  # fmt: skip
    for path in ("/v1/datasets", "/v1/models/m/predict"):
        for head in heads:
            sent = {"Content-Type": "multipart/form-data; boundary=b"}
            check(client.post(path, content=form(head), headers=sent), (path, head[:60]), refused=True)
        for kind in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "b" * 300,
        ):
            check(client.post(path, content=form(name), headers={"Content-Type": kind}), (path, kind), refused=True)
