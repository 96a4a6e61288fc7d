"""The API's description says what is true."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from app.headers import CONTENT_SECURITY_POLICY
from tests.app.adapted import publish, services_of
from tests.jobs import upload


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_description_is_a_valid_one(document: dict[str, Any]) -> None:
    validate(document)


def test_every_error_of_every_operation_is_a_problem(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            errors = {status: told for status, told in operation["responses"].items() if int(status) >= 400}
            assert {"400", "408", "421", "431", "503"} <= set(errors), (method, path)
            for told in errors.values():
                name = told["$ref"].rpartition("/")[2]
                content = document["components"]["responses"][name]["content"]
                assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_statuses_follow_from_what_an_operation_takes(document: dict[str, Any]) -> None:
    always = {"400", "408", "414", "421", "431", "503"}
    secured = always | {"401", "403", "429"}
    paths = document["paths"]
    assert set(paths["/healthz"]["get"]["responses"]) == always | {"200"}
    assert set(paths["/v1/strategies"]["get"]["responses"]) == secured | {"200"}
    assert set(paths["/v1/jobs"]["post"]["responses"]) == secured | {"202", "409", "413", "422"}
    assert set(paths["/v1/datasets"]["post"]["responses"]) == secured | {"200", "201", "409", "413", "415", "422"}
    alias = paths["/v1/models/{name}/aliases/{alias}"]
    assert set(alias["put"]["responses"]) == secured | {"200", "201", "404", "409", "412", "413", "422", "428"}
    assert set(alias["delete"]["responses"]) == secured | {"204", "404", "409", "412", "422"}


def test_headers_that_are_promised_are_sent(client: TestClient, document: dict[str, Any]) -> None:
    made = client.post("/v1/datasets", files={"file": b"a,label\n1,x\n2,y\n3,x\n4,y\n"}, data={"name": "d"})
    publish(services_of(client), "m")
    alias = client.put("/v1/models/m/aliases/champion", json={"version": 1})
    for answer, path, method in [(made, "/v1/datasets", "post"), (alias, "/v1/models/{name}/aliases/{alias}", "put")]:
        promised = document["paths"][path][method]["responses"][str(answer.status_code)]["headers"]
        assert set(promised) in ({"X-Request-ID", "Location"}, {"X-Request-ID", "ETag"})
        assert all(name in answer.headers for name in promised)


def test_media_types_that_are_promised_are_sent(client: TestClient, document: dict[str, Any]) -> None:
    for path, expected in {
        "/metrics": "text/plain",
        "/v1/models/{name}/versions/{number}/export": "application/zip",
    }.items():
        assert set(document["paths"][path]["get"]["responses"]["200"]["content"]) == {expected}
    publish(services_of(client), "m")
    assert client.get("/v1/models/m/versions/1/export").headers["content-type"] == "application/zip"
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


# --- what else every answer carries -----------------------------------------------------------------------------------


def test_every_answer_carries_a_policy_that_allows_nothing(client: TestClient) -> None:
    dataset = upload(client)
    for path in [
        "/v1/models",
        "/v1/models/none",
        "/nowhere",
        "/openapi.json",
        "/healthz",
        f"/v1/datasets/{dataset}/examples",
    ]:
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "server" not in headers


def test_docs_may_run_their_own_scripts_and_talk_to_nobody_else(client: TestClient) -> None:
    page = client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy["script-src"]
    assert "unsafe" not in policy["script-src"]
    hosts = set(re.findall(r"https?://[a-z.]+", page.text))
    assert hosts == {"https://cdn.jsdelivr.net"}
    assert policy["connect-src"] == "'self'"
    assert client.get("/redoc").status_code == 404
