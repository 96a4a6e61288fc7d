"""Log lines name the request and the job they belong to, and no secret."""

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.jobs import service
from app.main import create_app
from app.settings import Settings
from tests.app.adapted import services_of
from tests.app.authorised import bearer, new_key
from tests.jobs import job_row, submit, upload
from worker.draining import Drain
from worker.runner import Runner


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


def test_every_line_of_a_request_names_it(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0", "sweep_seconds": 3600.0})
    with TestClient(create_app(lonely)) as client:
        dataset = upload(client)
        capsys.readouterr()
        body = {"kind": "adapt", "dataset": dataset, "model": "m", "strategy": "target_only"}
        assert client.post("/v1/jobs", json=body, headers={"X-Request-ID": "find-me"}).status_code == 202
        found = {line["event"]: line.get("request_id") for line in lines(capsys) if line["logger"] != "httpx"}
    assert found["hint_not_sent"] == "find-me"
    assert found["request"] == "find-me"


def test_access_line_tells_the_code_of_a_problem(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.get("/v1/models/none")
    (entry,) = [line for line in lines(capsys) if line["event"] == "request"]
    assert (entry["status"], entry["code"]) == (404, "not_found")


def test_every_line_of_a_job_names_the_job_and_the_request_it_came_from(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.headers["X-Request-ID"] = "asked-for-it"
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    capsys.readouterr()
    Runner(services_of(client), ["adapt", "train"], Drain()).run(job["id"])
    of_job = [line for line in lines(capsys) if line["logger"].startswith("worker.")]
    assert {"job_started", "job_ended"} <= {line["event"] for line in of_job}
    for line in of_job:
        told = (line["job_id"], line["request_id"], line["attempt"], line["kind"])
        assert told == (job["id"], "asked-for-it", 1, "adapt")


def test_lines_of_the_lease_name_the_request_too(
    client: TestClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.headers["X-Request-ID"] = "asked-for-it"
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    capsys.readouterr()

    def tell(_lease: object) -> None:
        logging.getLogger("lease").warning("beating")

    monkeypatch.setattr("worker.lease.Lease._run", tell)
    Runner(services_of(client), ["adapt", "train"], Drain()).run(job["id"])
    beats = [line for line in lines(capsys) if line["event"] == "beating"]
    # More than one where the machine was so slow that the lease, which nobody keeps here, ran out.
    assert {(line["job_id"], line["request_id"]) for line in beats} == {(job["id"], "asked-for-it")}


def test_job_that_no_request_submitted_is_logged_without_one(client: TestClient) -> None:
    services = services_of(client)
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    with services.database.session(read_only=True) as session:
        assert service.request_of(session, job["id"]) is not None
        assert service.request_of(session, "job_none") is None
    assert job_row(services.database, job["id"]).state == "queued"


def test_no_line_holds_a_secret(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(create_app(settings.model_copy(update={"log_level": "DEBUG"}))) as client:
        token = new_key(client)
        secret = token.split("_", 2)[2]
        assert client.post("/v1/keys", json={"name": "x", "scopes": ["admin"]}, headers=bearer(token)).is_success
        assert client.get("/v1/keys", headers=bearer(token + "x")).status_code == 401
        log = logging.getLogger("some.library")
        log.warning("sent %s", {"Authorization": f"Bearer {token}"})
        log.warning('{"authorization": "Bearer another-secret-0123"}')
        log.warning("cannot reach postgresql://me:hunter2secret@db.internal/x")
        log.error("failed", exc_info=RuntimeError(f"rejected {token}"))
    text = capsys.readouterr().err
    for hidden in (secret, "another-secret", "hunter2secret"):
        assert hidden not in text
    for kept in ("sent ", "postgresql://me:***@db.internal/x", "rejected mg_"):
        assert kept in text
    assert all(json.loads(line) for line in text.splitlines() if line.startswith("{"))
