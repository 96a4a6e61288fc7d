"""What a project may store and run, on both databases."""

from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from app.dependencies import Services
from app.errors import AppError, TooManyRequests
from app.jobs import lifecycle
from app.main import create_app
from app.projects import quotas, service
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import Dataset, Job, Project
from tests.app.adapted import insert_job, other_project, publish, services_of, table_outcome
from tests.jobs import claimed, csv, dataset_row, queued, submit


def limit(client: TestClient, **wanted: int | None) -> None:
    """Limits of the default project, as the command line sets them."""
    with services_of(client).database.transaction() as session:
        service.limit(session, "default", wanted)  # type: ignore[arg-type]


def upload(client: TestClient, seed: int = 0, rows: int = 24) -> Any:
    return client.post("/v1/datasets", files={"file": ("toy.csv", csv(rows=rows, seed=seed))}, data={"name": "toy"})


def used(client: TestClient, measure: str) -> Any:
    return client.get("/v1/usage").json()[measure]["used"]


def adapting(client: TestClient, model: str = "m") -> dict[str, Any]:
    """A good submission."""
    dataset = dataset_row(services_of(client))
    return {"kind": "adapt", "dataset": dataset.id, "model": model, "strategy": "target_only"}


def refusal(answer: Any) -> tuple[int, str]:
    problem = answer.json()
    assert problem["errors"][0]["code"] == problem["code"]
    assert problem["errors"][0]["hint"]
    return answer.status_code, problem["code"]


def blobs(services: Services) -> list[str]:
    root = services.settings.data_dir / "storage"
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_everything_is_allowed_when_nothing_is_limited(client):
    assert upload(client).status_code == 201
    usage = client.get("/v1/usage").json()
    assert usage["project"] == "default"
    assert [usage[measure]["limit"] for measure in quotas.MEASURES] == [None] * 4
    assert usage["rows"]["used"] == 24
    assert usage["bytes"]["used"] > 0
    assert usage["requests_per_minute"] is None


def test_upload_is_refused_and_leaves_nothing_when_the_rows_would_be_too_many(client):
    limit(client, rows=50)
    assert upload(client, 1).status_code == 201
    assert upload(client, 2).status_code == 201
    before = blobs(services_of(client))
    answer = upload(client, 3)
    assert refusal(answer) == (403, "quota_rows")
    assert "may have 50 rows" in answer.json()["detail"]
    assert "has 48" in answer.json()["detail"]
    assert (used(client, "rows"), blobs(services_of(client))) == (48, before)
    assert upload(client, 3, rows=2).status_code == 201


def test_upload_is_refused_when_the_bytes_would_be_too_many(client):
    assert upload(client, 1).status_code == 201
    limit(client, bytes=used(client, "bytes") + 10)
    assert refusal(upload(client, 2)) == (403, "quota_bytes")


def test_upload_of_what_exists_already_needs_no_room(client):
    first = upload(client).json()
    limit(client, rows=24, bytes=first["size_bytes"])
    again = upload(client)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


def test_upload_succeeds_again_when_something_was_deleted(client):
    limit(client, rows=24)
    dataset_id = upload(client, 1).json()["id"]
    assert upload(client, 2).status_code == 403
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert upload(client, 2).status_code == 201


def test_job_is_refused_until_another_ends_when_too_many_wait(client):
    limit(client, jobs=1)
    first = submit(client, **adapting(client))
    answer = client.post("/v1/jobs", json=adapting(client))
    assert refusal(answer) == (429, "quota_jobs")
    assert answer.json()["retryable"]
    assert int(answer.headers["Retry-After"]) >= 1
    client.post(f"/v1/jobs/{first['id']}/cancel")
    assert client.post(f"/v1/jobs/{first['id']}/retry").status_code == 202
    assert client.post(f"/v1/jobs/{first['id']}/retry").status_code == 429


def test_running_job_counts_and_an_ended_one_does_not(client):
    services = services_of(client)
    claim = claimed(services, queued(services))
    assert used(client, "jobs") == 1
    with services.database.transaction() as session:
        lifecycle.fail(session, claim, AppError("no"))
    assert used(client, "jobs") == 0


def test_job_is_refused_when_it_would_make_one_model_too_many(client):
    limit(client, models=2)
    publish(services_of(client), "exists")
    first = submit(client, **adapting(client, "queued"))
    assert used(client, "models") == 2
    assert refusal(client.post("/v1/jobs", json=adapting(client, "third"))) == (403, "quota_models")
    for known in ("exists", "queued"):
        assert client.post("/v1/jobs", json=adapting(client, known)).status_code == 202
    assert client.post(f"/v1/jobs/{first['id']}/cancel").status_code == 202


def test_job_that_failed_gives_the_name_of_its_model_back(client):
    limit(client, models=1)
    first = submit(client, **adapting(client, "first"))
    client.post(f"/v1/jobs/{first['id']}/cancel")
    submit(client, **adapting(client, "second"))
    assert client.post(f"/v1/jobs/{first['id']}/retry").status_code == 403


def test_feedback_is_refused_when_the_rows_would_be_too_many(client):
    publish(services_of(client), "fruit")
    limit(client, rows=1)
    body = {"input": {"size": 1.5}, "label": "small"}
    assert client.post("/v1/models/fruit/feedback", json=body).status_code == 201
    assert refusal(client.post("/v1/models/fruit/feedback", json=body)) == (403, "quota_rows")
    assert used(client, "rows") == 1


def test_limit_of_the_service_holds_unless_the_project_has_its_own(settings):
    with TestClient(create_app(settings.model_copy(update={"quota_rows": 24}))) as client:
        assert upload(client, 1).status_code == 201
        assert upload(client, 2).status_code == 403
        limit(client, rows=48)
        assert client.get("/v1/usage").json()["rows"] == {"used": 24, "limit": 48}
        assert upload(client, 2).status_code == 201
        limit(client, rows=0)
        assert upload(client, 3).status_code == 201
        limit(client, rows=None)
        assert upload(client, 4).status_code == 403


def test_project_uses_up_nothing_of_another(client):
    limit(client, rows=24)
    dataset_row(services_of(client), project_id=other_project(services_of(client)), n_examples=1_000)
    assert upload(client).status_code == 201


def test_second_of_two_claims_at_once_waits_and_is_refused(services: Services):
    settings = services.settings.model_copy(update={"quota_jobs": 1})
    has_begun = Event()

    def second() -> str:
        has_begun.set()
        with services.database.transaction() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SET LOCAL lock_timeout = '60s'"))
                session.execute(text("SET LOCAL statement_timeout = '60s'"))
            try:
                quotas.claim(session, settings, DEFAULT_PROJECT, jobs=1)
            except TooManyRequests as error:
                return error.code
        return "allowed"

    with ThreadPoolExecutor(1) as pool:
        with services.database.transaction() as session:
            quotas.claim(session, settings, DEFAULT_PROJECT, jobs=1)
            insert_job(session, DEFAULT_PROJECT, "adapt", "queued", {"model": "m"})
            outcome = pool.submit(second)
            has_begun.wait(60)
            wait([outcome], timeout=0.3)  # without a lock it would be through by now
        assert outcome.result(60) == "quota_jobs"


def test_no_more_jobs_than_allowed_are_accepted_when_many_come_at_once(settings: Settings):
    with TestClient(create_app(settings.model_copy(update={"quota_jobs": 2}))) as client:
        body = adapting(client)
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/jobs", json=body), range(5)))
        statuses = [answer.status_code for answer in answers]
        with services_of(client).database.session(read_only=True) as session:
            assert session.scalar(select(func.count(Job.id))) == statuses.count(202)
    assert statuses.count(202) <= 2
    assert set(statuses) <= {202, 429, 503}  # 503: whoever waited too long for the others


def test_limits_are_the_projects_own_before_the_services():
    settings = Settings(quota_bytes=10, quota_rows=20, quota_jobs=30)
    project = Project(id="prj_x", name="x", quota_bytes=1, quota_rows=0, quota_models=5)
    assert quotas.limits(project, settings) == {"bytes": 1, "rows": None, "jobs": 30, "models": 5}


def test_use_counts_what_there_is(services: Services):
    dataset_row(services, n_examples=7, size_bytes=2**40)
    dataset_row(services, n_examples=5, size_bytes=3)
    publish(services, "m")
    with services.database.session(read_only=True) as session:
        datasets = session.scalars(select(Dataset)).all()
        assert len(datasets) == 2
        assert quotas.use(session, DEFAULT_PROJECT, "rows") == 12
        assert quotas.use(session, DEFAULT_PROJECT, "bytes") == 2**40 + 3 + len(table_outcome().artifact)
        assert quotas.use(session, DEFAULT_PROJECT, "models") == 1
        assert quotas.use(session, DEFAULT_PROJECT, "jobs") == 0
