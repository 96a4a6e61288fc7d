import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from app.dependencies import Services
from app.ids import new_id
from app.settings import Settings
from app.storage import FolderStorage
from app.tables import Dataset, Feedback, MetaLearner, Model, ModelAlias, ModelVersion
from tests.jobs import csv, ended, event_types, job_row, submit, until, upload
from worker.draining import Drain
from worker.runner import Runner

QUEUES = ["adapt", "train"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nobody sweeps: on a slow machine a sweeper would hold the very rows that the runner is to take."""
    return settings.model_copy(update={"sweep_seconds": 86_400.0})


def _run(client, job_id: str, **settings: Any) -> dict[str, Any]:
    """The job after a runner of this process has had it."""
    services: Services = client.app.state.services
    if settings:
        services = Services(
            settings=services.settings.model_copy(update=settings),
            database=services.database,
            storage=services.storage,
            hints=services.hints,
            inference=services.inference,
        )
    Runner(services, QUEUES, Drain()).run(job_id)
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


def _adapted(client, **body: Any) -> dict[str, Any]:
    defaults = {"kind": "adapt", "model": "m", "strategy": "target_only"}
    job = submit(client, **defaults | {"dataset": body.pop("dataset", None) or upload(client)} | body)
    return _run(client, job["id"])


def _blob_path(services: Services, dataset_id: str) -> Path:
    with services.database.session(read_only=True) as session:
        dataset = session.get(Dataset, dataset_id)
    assert dataset is not None
    assert isinstance(services.storage, FolderStorage)
    return services.storage.root / dataset.blob[:2] / dataset.blob


def test_adapting_publishes_a_version_with_lineage_when_it_succeeds(client, services: Services):
    target = upload(client)
    job = _adapted(client, dataset=target, seed=3)
    assert (job["state"], job["progress"], job["attempt"], job["error"]) == ("succeeded", 1.0, 1, None)
    assert (job["result"]["model"], job["result"]["version"]) == ("m", 1)
    with services.database.session(read_only=True) as session:
        version = session.scalars(select(ModelVersion)).one()
        alias = session.scalars(select(ModelAlias)).one()
    assert job["result"]["report"] == version.report
    assert (version.strategy, version.lineage["dataset"]["id"], version.lineage["seed"]) == ("target_only", target, 3)
    assert len(services.storage.read(version.artifact)) == version.size_bytes
    assert (alias.alias, alias.number) == ("latest", 1)


def test_adapting_again_counts_versions_up_when_the_name_is_the_same(client, services: Services):
    target = upload(client)
    assert [_adapted(client, dataset=target)["result"]["version"] for _ in range(3)] == [1, 2, 3]


def test_meta_learner_serves_adaptations_when_it_was_trained(client, services: Services):
    sources = [upload(client, f"s{number}", csv(shift=number, rows=40, seed=number)) for number in range(3)]
    options = {"steps": 3, "evaluation_episodes": 4, "evaluation_shots": [1]}
    job = submit(client, kind="meta_train", name="ml", sources=sources, options=options)
    meta = _run(client, job["id"])
    assert meta["state"] == "succeeded", meta["error"]
    job = _adapted(client, strategy="init", meta_learner=meta["result"]["meta_learner"])
    assert job["state"] == "succeeded", job["error"]
    with services.database.session(read_only=True) as session:
        learner = session.scalars(select(MetaLearner)).one()
        version = session.scalars(select(ModelVersion)).one()
    assert learner.sources == sources
    assert version.lineage["meta_learner"] == learner.id
    assert [source["id"] for source in version.lineage["sources"]] == sources


def test_batch_prediction_answers_every_row_when_it_succeeds(client, services: Services):
    _adapted(client)
    queries = upload(client, "queries", csv(rows=10, seed=5))
    job = _run(client, submit(client, kind="batch_predict", model="m", dataset=queries)["id"])
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["rows"], job["result"]["errors"]) == (10, 0)
    lines = [json.loads(line) for line in client.get(job["result"]["download"]).text.splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 11))
    assert {line["label"] for line in lines} <= {"low", "high"}


def test_adapting_learns_from_feedback_when_asked_to(client, services: Services):
    target = upload(client)
    _adapted(client, dataset=target)
    with services.database.transaction() as session:
        model = session.scalars(select(Model)).one()
        for columns, label in [({"a": 9.0, "b": 0.0}, "huge"), ({"a": "9.5", "b": None}, "huge"), ({"c": 1}, "huge")]:
            session.add(Feedback(id=new_id("fb"), model_id=model.id, input={"columns": columns}, label=label))
    job = _adapted(client, dataset=target, options={"include_feedback": True})
    assert job["state"] == "succeeded", job["error"]
    with services.database.session(read_only=True) as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.number == 2)).one()
    assert version.lineage["n_feedback"] == 2
    answer = client.post("/v1/models/m/predict", json={"inputs": [{"a": 9.2, "b": 0.0}]})
    assert "huge" in answer.json()["predictions"][0]["probabilities"]


def test_job_fails_at_once_when_the_data_is_at_fault(client, services: Services):
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    with services.database.transaction() as session:
        session.execute(delete(Dataset))
    ended_job = _run(client, job["id"])
    assert (ended_job["state"], ended_job["attempt"]) == ("failed", 1)
    assert (ended_job["error"]["code"], ended_job["error"]["status"]) == ("dataset_not_found", 404)


def test_job_is_tried_again_and_then_fails_when_errors_are_ours(client, services: Services):
    target = upload(client)
    path = _blob_path(services, target)
    path.unlink()
    path.mkdir()  # reading it is an OSError
    job = submit(client, kind="adapt", dataset=target, model="m", strategy="target_only")
    ended_job = _run(client, job["id"], max_attempts=2)
    assert (ended_job["state"], ended_job["attempt"]) == ("failed", 2)
    error = ended_job["error"]
    assert (error["code"], error["status"]) == ("internal_error", 500)
    assert str(path) not in json.dumps(ended_job)
    assert event_types(services.database, job["id"]) == [
        "queued", "running", "progress", "requeued", "running", "progress", "failed",
    ]  # fmt: skip


def test_job_succeeds_when_a_passing_error_is_over(client, services: Services):
    target = upload(client)
    path = _blob_path(services, target)
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    path.symlink_to(path.parent)  # reading a folder is an OSError
    job = submit(client, kind="adapt", dataset=target, model="m", strategy="target_only")
    runner = threading.Thread(target=_run, args=[client, job["id"]])
    runner.start()
    until(lambda: job_row(services.database, job["id"]).attempt == 1)
    mended = path.with_suffix(".mended")
    mended.symlink_to(hidden)
    mended.replace(path)  # at no moment is there nothing
    runner.join()
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"


def _long(client) -> dict[str, Any]:
    """A job that takes minutes."""
    sources = [upload(client, f"s{number}", csv(shift=number, rows=60, seed=number)) for number in range(3)]
    return submit(client, kind="meta_train", name="ml", sources=sources, options={"steps": 100_000})


def test_running_job_is_cancelled_when_asked_to(client, services: Services):
    job = _long(client)
    runner = threading.Thread(target=_run, args=[client, job["id"]])
    runner.start()
    until(lambda: job_row(services.database, job["id"]).progress > 0)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    runner.join(timeout=90)
    assert ended(client, job["id"])["state"] == "cancelled"
    with services.database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(MetaLearner)) == 0
    assert event_types(services.database, job["id"])[-1] == "cancelled"


def test_running_job_is_given_back_when_the_drain_is_over(client, services: Services):
    job = _long(client)
    drain = Drain()
    runner = threading.Thread(target=Runner(client.app.state.services, QUEUES, drain).run, args=[job["id"]])
    runner.start()
    until(lambda: job_row(services.database, job["id"]).progress > 0)
    drain.begin(0.0)
    runner.join(timeout=90)
    row = job_row(services.database, job["id"])
    assert (row.state, row.attempt, row.crashes) == ("queued", 0, 0)


def test_runner_takes_whatever_waits_when_it_has_finished(client, services: Services):
    target = upload(client)
    jobs = [submit(client, kind="adapt", dataset=target, model="m", strategy="target_only")["id"] for _ in range(3)]
    _run(client, jobs[1])
    assert [job_row(services.database, job_id).state for job_id in jobs] == ["succeeded"] * 3


def test_runner_takes_nothing_when_it_drains(client, services: Services):
    drain = Drain()
    drain.begin(60)
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    Runner(client.app.state.services, QUEUES, drain).run(job["id"])
    assert job_row(services.database, job["id"]).state == "queued"


def test_runner_alternates_queues_when_both_have_jobs(client, services: Services):
    sources = [upload(client, f"s{number}", csv(shift=number, rows=8, seed=number)) for number in range(2)]
    options = {"encoder": None, "steps": 0, "evaluation_episodes": 4, "evaluation_shots": [1]}
    train = [submit(client, kind="meta_train", name="x", sources=sources, options=options)["id"] for _ in range(2)]
    adapt = [
        submit(client, kind="adapt", dataset=sources[0], model="m", strategy="target_only")["id"] for _ in range(2)
    ]
    _run(client, train[0])
    started = {job_id: job_row(services.database, job_id).started_at for job_id in train + adapt}
    order = sorted(started, key=lambda job_id: str(started[job_id]))
    assert order == [train[0], adapt[0], train[1], adapt[1]]
