"""Request ids, logs, metrics, health and readiness."""

import json
import logging

from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.adapted import insert_job, services_of


def test_answer_carries_the_request_id_of_the_caller(client):
    answer = client.get("/v1/models/none", headers={"X-Request-ID": "abc-123"})
    assert answer.headers["X-Request-ID"] == "abc-123"
    assert answer.json()["request_id"] == "abc-123"


def test_answer_carries_a_fresh_request_id_when_the_given_one_is_no_plain_token(client):
    for given in ["", "a b", "x" * 129, 'a"b']:
        answer = client.get("/v1/models", headers={"X-Request-ID": given})
        assert answer.headers["X-Request-ID"] != given
        assert len(answer.headers["X-Request-ID"]) == 32


def test_answer_carries_security_headers(client):
    headers = client.get("/v1/models").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_unexpected_error_is_a_problem_without_its_text(settings):
    app = create_app(settings)

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("a secret")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/boom", headers={"X-Request-ID": "find-me"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "find-me"
    assert answer.json()["request_id"] == "find-me"
    assert "secret" not in answer.text


def test_access_log_is_json_with_route_and_request_id(client, capsys):
    client.get("/v1/models/some", headers={"X-Request-ID": "log-me"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    (entry,) = [line for line in lines if line.get("event") == "request" and line["request_id"] == "log-me"]
    assert entry["route"] == "/v1/models/{name}"
    assert (entry["method"], entry["status"]) == ("GET", 404)
    assert entry["duration_ms"] >= 0


def test_records_of_libraries_are_json_too(client, capsys):
    logging.getLogger("some.library").warning("hello %s", "there")
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "hello there"


def test_metrics_count_requests_by_route_template(client):
    client.get("/v1/models/one")
    client.get("/v1/models/two")
    client.get("/no/such/path")
    text = client.get("/metrics").text
    assert 'metagraft_requests_total{method="GET",route="/v1/models/{name}",status="404"} 2.0' in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert "/no/such/path" not in text


def test_metrics_tell_jobs_by_state_and_the_age_of_the_queue(client):
    with services_of(client).database.transaction() as session:
        insert_job(session, "prj_default", "batch_predict", "succeeded", {})
    text = client.get("/metrics").text
    assert 'metagraft_jobs{state="succeeded"} 1.0' in text
    assert 'metagraft_jobs{state="queued"} 0.0' in text
    assert "metagraft_queue_age_seconds 0.0" in text


def test_healthz_answers_while_the_process_lives(client):
    assert client.get("/healthz").json() == {"status": "alive"}


def test_readyz_is_ready_when_everything_answers(client):
    assert client.get("/readyz").json() == {
        "status": "ready",
        "checks": {"database": "ok", "migrations": "ok", "storage": "ok", "broker": "ok"},
    }


def test_readyz_is_degraded_when_only_the_broker_is_away(settings):
    lonely = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(lonely)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["broker"] == "failing"


def test_readyz_names_the_check_when_migrations_are_outstanding(broker_url, tmp_path):
    with TestClient(create_app(Settings(data_dir=tmp_path, broker_url=broker_url, warm_up=False))) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"
    assert [item["pointer"] for item in answer.json()["errors"]] == ["/checks/migrations"]


def test_readyz_names_the_check_when_the_database_is_away(broker_url, tmp_path):
    away = Settings(
        data_dir=tmp_path, broker_url=broker_url, warm_up=False, database_url="postgresql://nobody@127.0.0.1:1/none"
    )
    with TestClient(create_app(away)) as client:
        answer = client.get("/readyz")
        metrics = client.get("/metrics")
    assert answer.status_code == 503
    assert [item["code"] for item in answer.json()["errors"]] == ["database", "migrations"]
    assert metrics.status_code == 200
