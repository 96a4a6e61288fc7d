from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from app.dependencies import Services
from app.idempotency import Answer, once
from app.security import DEFAULT_PROJECT
from app.tables import IdempotencyKey, Job, Project
from tests.app.adapted import publish, services_of
from tests.jobs import csv, dataset_row


def _body(services: Services, **values: object) -> dict[str, object]:
    return {"kind": "adapt", "dataset": dataset_row(services).id, "model": "m", "strategy": "target_only", **values}


def _count(services: Services) -> int:
    with services.database.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_same_key_and_body_give_the_first_answer_when_sent_again(client, services: Services):
    body = _body(services)
    first = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    again = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert _count(services) == 1


def test_same_key_is_refused_when_the_body_differs(client, services: Services):
    body = _body(services)
    client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    other = client.post("/v1/jobs", json=body | {"model": "n"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert _count(services) == 1


def test_key_can_be_used_again_when_the_first_request_was_refused(client, services: Services):
    body = _body(services)
    bad = client.post("/v1/jobs", json=body | {"options": {"nope": 1}}, headers={"Idempotency-Key": "k"})
    good = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert (bad.status_code, good.status_code) == (422, 202)


def test_fifty_requests_make_one_job_when_they_share_a_key(client, services: Services):
    body = _body(services)

    def send(_: int):
        return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "shared"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert _count(services) == 1
    statuses = {answer.status_code for answer in answers}
    assert 202 in statuses
    assert statuses <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert (answer.json()["code"], answer.json()["retryable"]) == ("idempotency_key_in_flight", True)


@pytest.mark.parametrize("key", ["", "x" * 201, "umlaut-\xe4", "tab\t"])
def test_key_is_refused_when_it_is_not_short_printable_ascii(client, services: Services, key: str):
    answer = client.post("/v1/jobs", json=_body(services), headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"


def test_key_of_another_project_is_no_repetition_when_equal(services: Services):
    with services.database.transaction() as session:
        session.add(Project(id="prj_other", name="other"))
    for project in (DEFAULT_PROJECT, "prj_other"):
        with services.database.transaction() as session:
            answer = once(session, project, "k", {"a": 1}, lambda: Answer(201, {"made": "here"}))
        assert "Idempotency-Replayed" not in answer.headers


def test_secret_fields_are_not_kept_when_named(services: Services):
    for expected in ("mg_secret", None):
        with services.database.transaction() as session:
            answer = once(session, DEFAULT_PROJECT, "k", {}, lambda: Answer(201, {"key": "mg_secret"}), secret=["key"])
        assert answer.body == {"key": expected}


def test_answer_is_conflict_when_the_first_request_is_unfinished(client, services: Services):
    body = _body(services)
    client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    with services.database.transaction() as session:
        session.execute(update(IdempotencyKey).values(status=None))
    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_flight")


def test_upload_gives_the_first_answer_when_its_key_is_sent_again(client):
    def send(data: bytes):
        files = {"file": ("toy.csv", data)}
        return client.post("/v1/datasets", files=files, data={"name": "toy"}, headers={"Idempotency-Key": "up"})

    first, again, other = send(csv()), send(csv()), send(csv(seed=1))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_key_is_made_once_and_its_secret_not_shown_again_when_its_request_is_repeated(client):
    body, headers = {"name": "ci", "scopes": ["admin"]}, {"Idempotency-Key": "mk"}
    first = client.post("/v1/keys", json=body, headers=headers)
    bearer = {"Authorization": f"Bearer {first.json()['key']}"}
    again = client.post("/v1/keys", json=body, headers=headers | bearer)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() | {"key": None}
    assert len(client.get("/v1/keys", headers=bearer).json()["items"]) == 1


def test_retry_gives_the_first_answer_when_its_key_is_sent_again(client, services: Services):
    job_id = client.post("/v1/jobs", json=_body(services)).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    first, again = (client.post(f"/v1/jobs/{job_id}/retry", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert _count(services) == 2


def test_feedback_gives_the_first_answer_when_its_key_is_sent_again(client):
    publish(services_of(client), "fruit")
    body = {"input": {"size": 1.5}, "label": "small"}
    first, again = (
        client.post("/v1/models/fruit/feedback", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    other = client.post("/v1/models/fruit/feedback", json=body | {"label": "big"}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert first.json() == again.json()
