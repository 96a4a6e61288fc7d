import json
from typing import Any

import pytest

from app.dependencies import Services
from app.ids import new_id
from app.jobs import lifecycle
from app.jobs.publish import publish_predictions
from app.security import DEFAULT_PROJECT, create_key
from app.tables import Job, Project
from tests.jobs import claimed, dataset_row, event_types, queued, submit


def _adapt(services: Services, **values: Any) -> dict[str, Any]:
    return {"kind": "adapt", "dataset": dataset_row(services).id, "model": "m", "strategy": "target_only"} | values


def test_list_is_paged_newest_first_when_there_are_many(client, services: Services):
    ids = [queued(services, model="m") for _ in range(5)]
    first = client.get("/v1/jobs?page_size=3").json()
    second = client.get(f"/v1/jobs?page_size=3&page_token={first['next_page_token']}").json()
    assert [job["id"] for job in first["items"] + second["items"]] == ids[::-1]
    assert second["next_page_token"] is None


def test_list_is_narrowed_when_state_or_kind_is_given(client, services: Services):
    train = queued(services, kind="meta_train", queue="train")
    adapt = queued(services)
    claimed(services, adapt)
    assert [job["id"] for job in client.get("/v1/jobs?kind=meta_train").json()["items"]] == [train]
    assert [job["id"] for job in client.get("/v1/jobs?state=running").json()["items"]] == [adapt]
    assert client.get("/v1/jobs?state=asleep").status_code == 422


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "job_%00", "%ed%a0%80", "x" * 300])
@pytest.mark.parametrize("path", ["", "/events", "/result"])
def test_job_is_not_found_when_the_id_is_unknown(client, job_id: str, path: str):
    assert client.get(f"/v1/jobs/{job_id}{path}").status_code in {404, 422}


def test_job_is_not_found_when_it_belongs_to_another_project(client, services: Services):
    with services.database.transaction() as session:
        session.add(Project(id="prj_other", name="other"))
        session.flush()
        job = Job(id=new_id("job"), project_id="prj_other", kind="adapt", queue="adapt", spec={})
        lifecycle.insert(session, job)
        _, token = create_key(session, project_id=DEFAULT_PROJECT, name="mine", scopes=["jobs"])
    headers = {"Authorization": f"Bearer {token}"}
    for method, path in [
        ("GET", ""), ("GET", "/events"), ("GET", "/result"), ("POST", "/cancel"), ("POST", "/retry"),
    ]:  # fmt: skip
        assert client.request(method, f"/v1/jobs/{job.id}{path}", headers=headers).status_code == 404
    assert client.get("/v1/jobs", headers=headers).json()["items"] == []


def test_cancel_ends_a_job_at_once_when_it_is_queued(client, services: Services):
    job_id = queued(services)
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert answer.json()["finished_at"] is not None


def test_cancel_asks_once_when_the_job_runs(client, services: Services):
    job_id = claimed(services, queued(services)).job_id
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"], answer.json()["cancel_requested"]) == (202, "running", True)
    assert event_types(services.database, job_id) == ["queued", "running", "cancel_requested"]


def test_cancel_conflicts_when_the_job_has_ended(client, services: Services):
    job_id = queued(services)
    client.post(f"/v1/jobs/{job_id}/cancel")
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_ended")


def test_retry_makes_a_new_job_when_the_old_one_was_cancelled(client, services: Services):
    job = submit(client, **_adapt(services))
    client.post(f"/v1/jobs/{job['id']}/cancel")
    answer = client.post(f"/v1/jobs/{job['id']}/retry")
    again = answer.json()
    assert (answer.status_code, again["state"], again["retry_of"]) == (202, "queued", job["id"])
    assert answer.headers["location"] == f"/v1/jobs/{again['id']}"
    assert again["request"] == job["request"]
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_retry_conflicts_when_the_job_did_not_fail(client, services: Services, state: str):
    job_id = queued(services)
    if state != "queued":
        claim = claimed(services, job_id)
    if state == "succeeded":
        with services.database.transaction() as session:
            lifecycle.succeed(session, claim, {})
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 409


def test_result_is_the_file_when_a_batch_prediction_succeeded(client, services: Services):
    lines = b'{"row": 1, "label": "low"}\n'
    blob = services.storage.put_bytes(lines)
    claim = claimed(services, queued(services, kind="batch_predict"))
    assert client.get(f"/v1/jobs/{claim.job_id}/result").status_code == 409
    with services.database.transaction() as session:
        publish_predictions(session, claim, blob=blob, rows=1, errors=0)
    job = client.get(f"/v1/jobs/{claim.job_id}").json()
    answer = client.get(job["result"]["download"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert json.loads(answer.content) == {"row": 1, "label": "low"}


def test_result_is_not_found_when_the_kind_makes_no_file(client, services: Services):
    assert client.get(f"/v1/jobs/{queued(services)}/result").status_code == 404
