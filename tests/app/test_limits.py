"""The limit on request bodies."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app.limits import MAX_SMALL_BYTES, BodyLimitMiddleware
from app.settings import Settings
from tests.app.files import CSV

LIMITS = {"max_upload_bytes": 20_000, "max_request_bytes": 5_000}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=LIMITS)


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def is_too_large(response: Any) -> bool:
    assert response.status_code == 413, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    return bool(response.json()["code"] == "payload_too_large")


def test_upload_is_refused_when_its_declared_length_is_beyond_the_limit(client: TestClient) -> None:
    assert is_too_large(client.post("/v1/datasets", files={"file": b"x" * 20_001}, data={"name": "x"}))


def test_upload_is_refused_while_it_streams_when_it_declares_no_length(client: TestClient, settings: Settings) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/v1/datasets", content=iter([part, *[b"x" * 1_000] * 21]), headers=headers)
    assert is_too_large(response)
    assert list((settings.data_dir / "tmp").iterdir()) == []


def reads_until_refused(settings: Settings, path: str) -> int:
    """How many kilobytes of an endless body are read, and one more that is too much."""
    reads = 0

    async def application(_scope: Scope, receive: Receive, _send: Send) -> None:
        while True:
            await receive()

    async def endless() -> Message:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": True}

    async def send(_message: Message) -> None: ...

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    with pytest.raises(HTTPException):
        asyncio.run(BodyLimitMiddleware(application, settings)(scope, endless, send))
    return reads


def test_body_is_read_no_further_than_its_limit(settings: Settings) -> None:
    assert reads_until_refused(settings, "/v1/datasets") == 21


def test_upload_may_be_larger_than_other_requests(client: TestClient) -> None:
    data = CSV + b"".join(b"some %d words here,positive\n" % i for i in range(300))
    assert LIMITS["max_request_bytes"] < len(data) < LIMITS["max_upload_bytes"]
    assert client.post("/v1/datasets", files={"file": data}, data={"name": "x"}).status_code == 201


def test_json_request_is_refused_when_beyond_its_limit(client: TestClient) -> None:
    assert is_too_large(client.post("/v1/jobs", content=b'{"kind": "' + b"x" * 6_000 + b'"}'))


def test_json_request_is_refused_while_it_streams_when_beyond_its_limit(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    assert is_too_large(client.post("/v1/jobs", content=iter([b"x" * 1_000] * 6), headers=headers))


@pytest.mark.parametrize(("path", "limit"), [
    ("/v1/jobs", MAX_SMALL_BYTES),
    ("/v1/keys", MAX_SMALL_BYTES),
    ("/v2/repository/index", MAX_SMALL_BYTES),
    ("/v1/models/m/predict", MAX_SMALL_BYTES + 10_000),
    ("/v1/models/m/versions/1/predict", MAX_SMALL_BYTES + 10_000),
    ("/v1/models/m/feedback", MAX_SMALL_BYTES + 10_000),
    ("/v2/models/m/infer", MAX_SMALL_BYTES + 10_000),
])  # fmt: skip
def test_body_has_the_larger_limit_when_it_holds_inputs(settings: Settings, path: str, limit: int) -> None:
    large = settings.model_copy(update={"max_request_bytes": MAX_SMALL_BYTES + 10_000})
    assert reads_until_refused(large, path) == limit // 1_000 + 1


def test_request_within_its_limit_is_answered_as_usual(client: TestClient) -> None:
    assert client.post("/v1/jobs", json={"kind": "nothing"}).status_code == 422
