"""What is in use is not deleted, and the refusal names what uses it."""

from typing import Any

import pytest
from sqlalchemy import select

from app.ids import new_id
from app.jobs.references import resolve_batch_predict
from app.jobs.schemas import BatchPredictCreate
from app.models import service
from app.security import DEFAULT_PROJECT
from app.tables import Job, MetaLearner, Model, ModelVersion
from tests.app.adapted import insert_job, publish, services_of
from tests.app.locks import is_refused
from tests.jobs import dataset_row

ACTIVE, ENDED = ("queued", "running"), ("succeeded", "failed", "cancelled")


@pytest.fixture
def model(client: Any) -> str:
    """The name of a model with versions 1 and 2."""
    for _ in range(2):
        publish(services_of(client), "fruit")
    return "fruit"


def _job(client: Any, kind: str, state: str, **spec: Any) -> str:
    with services_of(client).database.transaction() as session:
        job = insert_job(session, DEFAULT_PROJECT, kind, state, spec)
        job.lease_until = job.advanced_at = 4e9  # the sweeper leaves it alone
        return job.id


def _version_id(client: Any, number: int) -> str:
    with services_of(client).database.session(read_only=True) as session:
        return str(session.scalar(select(ModelVersion.id).where(ModelVersion.number == number)))


def _meta_learner(client: Any, sources: list[str]) -> str:
    job_id = _job(client, "meta_train", "succeeded")
    row = MetaLearner(
        id=new_id("ml"), project_id=DEFAULT_PROJECT, job_id=job_id, name="m", modality="tabular",
        task="classification", encoder="table", sources=sources, card={}, artifact="0" * 64, size_bytes=1,
    )  # fmt: skip
    with services_of(client).database.transaction() as session:
        session.add(row)
    return row.id


def _refuse(answer: Any, code: str, *users: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, code)
    assert len(problem["errors"]) == len(users)
    for user, item in zip(users, problem["errors"], strict=True):
        assert user in problem["detail"]
        assert (item["code"], item["message"]) == ("in_use", f"Used by {user}.")
        assert item["hint"]


@pytest.mark.parametrize("state", ACTIVE)
def test_dataset_is_kept_while_a_job_names_it(client: Any, state: str) -> None:
    dataset = dataset_row(services_of(client)).id
    for kind, spec in (
        ("adapt", {"dataset": dataset}), ("adapt", {"dataset": "ds_x", "sources": ["ds_y", dataset]}),
        ("meta_train", {"sources": [dataset]}), ("batch_predict", {"dataset": dataset}),
    ):  # fmt: skip
        job_id = _job(client, kind, state, **spec)
        _refuse(client.delete(f"/v1/datasets/{dataset}"), "dataset_in_use", job_id)
        _end(client, job_id)
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 204


def _end(client: Any, job_id: str) -> None:
    with services_of(client).database.transaction() as session:
        session.get_one(Job, job_id).state = "cancelled"


def test_dataset_is_kept_while_a_meta_learner_came_of_it(client: Any) -> None:
    dataset = dataset_row(services_of(client)).id
    learners = sorted(_meta_learner(client, [dataset]) for _ in range(2))
    _refuse(client.delete(f"/v1/datasets/{dataset}"), "dataset_in_use", *learners)


@pytest.mark.parametrize("state", ACTIVE)
def test_version_is_kept_while_a_job_predicts_with_it(client: Any, model: str, state: str) -> None:
    job_id = _job(client, "batch_predict", state, model=model, model_version=_version_id(client, 2))
    _refuse(client.delete(f"/v1/models/{model}/versions/2"), "version_in_use", job_id)
    assert client.delete(f"/v1/models/{model}/versions/1").status_code == 204


def test_version_is_kept_while_aliases_name_it(client: Any, model: str) -> None:
    for alias in ("champion", "blessed"):
        client.put(f"/v1/models/{model}/aliases/{alias}", json={"version": 1})
    _refuse(client.delete(f"/v1/models/{model}/versions/1"), "version_in_use", "blessed", "champion")
    _refuse(client.delete(f"/v1/models/{model}"), "version_in_use", "blessed", "champion")
    assert client.delete(f"/v1/models/{model}/versions/2").status_code == 204


@pytest.mark.parametrize("state", ACTIVE)
@pytest.mark.parametrize("kind", ["adapt", "batch_predict"])
def test_model_is_kept_while_a_job_names_it(client: Any, model: str, kind: str, state: str) -> None:
    jobs = [_job(client, kind, state, model=model) for _ in range(2)]
    _job(client, kind, state, model="another")
    _refuse(client.delete(f"/v1/models/{model}"), "model_in_use", *jobs)


@pytest.mark.parametrize("state", ACTIVE)
def test_meta_learner_is_kept_while_a_job_names_it(client: Any, state: str) -> None:
    learner = _meta_learner(client, [])
    job_id = _job(client, "adapt", state, meta_learner=learner)
    _refuse(client.delete(f"/v1/meta-learners/{learner}"), "meta_learner_in_use", job_id)


@pytest.mark.parametrize("state", ENDED)
def test_everything_is_deleted_once_the_jobs_that_named_it_ended(client: Any, model: str, state: str) -> None:
    dataset, learner = dataset_row(services_of(client)).id, _meta_learner(client, [])
    version = _version_id(client, 1)
    _job(client, "adapt", state, model=model, meta_learner=learner, dataset=dataset, sources=[])
    _job(client, "batch_predict", state, model=model, model_version=version, dataset=dataset)
    paths = (f"datasets/{dataset}", f"meta-learners/{learner}", f"models/{model}/versions/1", f"models/{model}")
    assert [client.delete(f"/v1/{path}").status_code for path in paths] == [204] * 4


def test_model_is_locked_until_the_job_that_names_its_version_is_committed(client: Any, model: str) -> None:
    services = services_of(client)
    dataset = dataset_row(services).id
    body = BatchPredictCreate(kind="batch_predict", model=model, dataset=dataset)
    deleting = service.owned(DEFAULT_PROJECT).where(Model.name == model).with_for_update(nowait=True)
    with services.database.transaction() as session:
        resolve_batch_predict(session, DEFAULT_PROJECT, body)
        assert is_refused(services, deleting)
    assert not is_refused(services, deleting)
