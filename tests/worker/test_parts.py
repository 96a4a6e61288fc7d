"""Large batch predictions that workers share: one result, whoever did what, and nothing done twice or lost."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app import blobs
from app.datasets.examples import BATCH_ROWS, divided
from app.db import db_now
from app.dependencies import Services
from app.errors import Unavailable
from app.jobs import lifecycle, parts
from app.jobs.lifecycle import Claim
from app.jobs.parts import PartClaim
from app.settings import Settings
from app.storage import FolderStorage
from app.tables import Dataset, Job, JobPart
from tests.jobs import claimed, csv, event_types, job_row, submit, upload
from worker.draining import Drain
from worker.handlers import batch_predict
from worker.runner import Runner

QUEUES = ["adapt", "train"]
N_ROWS = 2 * BATCH_ROWS + 100


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Parts of one batch, and nobody sweeps: the rows are the runners' to take."""
    return settings.model_copy(update={"sweep_seconds": 86_400.0, "batch_predict_part_rows": 1})


@pytest.fixture
def job(client) -> str:
    """The id of a queued prediction of three parts."""
    adapt = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    queries = upload(client, "queries", csv(rows=N_ROWS, seed=5))
    runner(client).run(adapt["id"])
    return str(submit(client, kind="batch_predict", model="m", dataset=queries)["id"])


def runner(client, **settings: Any) -> Runner:
    services: Services = client.app.state.services
    changed = Services(
        settings=services.settings.model_copy(update=settings), database=services.database, storage=services.storage,
        hints=services.hints, inference=services.inference,
    )  # fmt: skip
    return Runner(changed, QUEUES, Drain())


def result(client, job_id: str) -> bytes:
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "succeeded", job["error"]
    assert (job["result"]["rows"], job["result"]["errors"], job["progress"]) == (N_ROWS, 0, 1.0)
    content: bytes = client.get(job["result"]["download"]).content
    return content


def led(services: Services, job_id: str) -> Claim:
    """The claim of a leader that has planned its parts."""
    claim = claimed(services, job_id, owner="leader")
    with services.database.transaction() as session:
        dataset = session.get_one(Dataset, claim.spec["dataset"])
        assert parts.plan(session, claim, divided(services.storage, dataset, 1))
    return claim


def part_rows(services: Services, job_id: str) -> list[JobPart]:
    with services.database.session(read_only=True) as session:
        return list(session.scalars(select(JobPart).where(JobPart.job_id == job_id).order_by(JobPart.number)))


def helped(services: Services, *, owner: str = "helper", lease: float = 30.0) -> PartClaim | None:
    with services.database.transaction() as session:
        return parts.help_out(session, owner=owner, lease_seconds=lease, queues=QUEUES)


def quiet(_fraction: float, _phase: str) -> None: ...


def test_predictions_are_the_same_bytes_when_they_were_made_in_parts(client, services, job):
    request = client.get(f"/v1/jobs/{job}").json()["request"]
    runner(client, batch_predict_part_rows=N_ROWS).run(job)
    split = submit(client, kind="batch_predict", model="m", dataset=request["dataset"])["id"]
    runner(client).run(split)
    assert result(client, split) == result(client, job)
    assert part_rows(services, split) == []


def test_two_runners_share_one_job(client, services, job):
    started = threading.Barrier(2)

    def work() -> None:
        started.wait(90)
        runner(client).run(job)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    lines = result(client, job).splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(1, N_ROWS + 1))
    assert event_types(services.database, job).count("succeeded") == 1


def test_helper_does_every_part_of_a_job_that_another_worker_runs(client, services, job):
    claim = led(services, job)
    runner(client).run("none")
    found = part_rows(services, job)
    assert [(part.rows_done, part.epoch, part.owner) for part in found] == [
        (BATCH_ROWS, 1, None), (BATCH_ROWS, 1, None), (100, 1, None),
    ]  # fmt: skip
    with services.database.session(read_only=True) as session:
        assert parts.rows_done(session, job) == N_ROWS
    assert batch_predict.run(client.app.state.services, claim, quiet)
    assert len(result(client, job).splitlines()) == N_ROWS


def test_job_goes_on_with_the_parts_that_are_left_when_its_worker_is_lost(client, services, job):
    claim = led(services, job)
    with services.database.transaction() as session:
        done = parts.take(session, claim)
    marker = services.storage.put_bytes(b'{"made": "before the crash"}\n')
    with services.database.transaction() as session:
        assert done is not None
        assert parts.finish(session, done, blob=marker, errors=0)
        assert parts.take(session, claim) is not None  # and is lost with it
        session.execute(update(Job).where(Job.id == job).values(lease_until=db_now() - 1))
        assert lifecycle.lose(session, job, claim.epoch, max_crashes=3) is not None
    runner(client).run(job)
    first, *others = result(client, job).splitlines()
    assert json.loads(first) == {"made": "before the crash"}
    assert [json.loads(line)["row"] for line in others] == list(range(BATCH_ROWS + 1, N_ROWS + 1))


def test_leader_takes_a_part_over_when_its_helper_is_lost(client, services, job):
    claim = led(services, job)
    lost = helped(services, lease=-1.0)
    runner(client).run("none")
    assert [part.blob is None for part in part_rows(services, job)] == [True, False, False]
    assert batch_predict.run(client.app.state.services, claim, quiet)
    assert lost is not None
    with services.database.transaction() as session:
        assert not parts.finish(session, lost, blob="0" * 64, errors=0)
    assert len(result(client, job).splitlines()) == N_ROWS


def test_part_that_is_given_back_goes_to_the_next_helper(client, services, job):
    led(services, job)
    first = helped(services)
    assert first is not None
    with services.database.transaction() as session:
        assert parts.give_back(session, first)
    again = helped(services, owner="another")
    assert again is not None
    assert (again.number, again.epoch) == (first.number, first.epoch + 1)
    with services.database.transaction() as session:
        assert not parts.heartbeat(session, first, lease_seconds=1.0).holds
        assert parts.heartbeat(session, again, lease_seconds=1.0).holds


def test_cancel_reaches_every_part(client, services, job):
    claim = led(services, job)
    part = helped(services)
    assert part is not None
    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 202
    with services.database.transaction() as session:
        assert not parts.heartbeat(session, part, lease_seconds=30.0).holds
        assert not parts.finish(session, part, blob="0" * 64, errors=0)
        assert parts.take(session, claim) is None
    assert helped(services) is None
    with services.database.transaction() as session:
        assert lifecycle.cancelled(session, claim)
    assert part_rows(services, job) == []
    assert job_row(services.database, job).state == "cancelled"


def test_job_fails_with_the_reason_when_a_helper_fails_at_a_part(client, services, job):
    claim = led(services, job)
    with services.database.transaction() as session:
        session.execute(delete(Dataset).where(Dataset.id == claim.spec["dataset"]))
    runner(client).run("none")
    assert [part.is_suspect for part in part_rows(services, job)] == [True, True, True]
    assert job_row(services.database, job).state == "running"
    with services.database.transaction() as session:
        assert lifecycle.give_back(session, claim) is not None
    runner(client).run(job)
    error = client.get(f"/v1/jobs/{job}").json()["error"]
    assert (error["code"], error["status"]) == ("dataset_not_found", 404)
    assert part_rows(services, job) == []


def test_blobs_of_parts_are_held_until_the_job_has_ended_and_deleted_then(client, services, job):
    claim = led(services, job)
    runner(client).run("none")
    held = {part.blob for part in part_rows(services, job)}
    with services.database.session(read_only=True) as session:
        assert held <= blobs.named(session)
    assert batch_predict.run(client.app.state.services, claim, quiet)
    with services.database.session(read_only=True) as session:
        assert not held & blobs.named(session)
    assert not any(services.storage.exists(str(blob)) for blob in held)
    assert len(result(client, job).splitlines()) == N_ROWS


def test_blob_of_a_part_stays_when_a_part_of_another_job_has_the_same(client, services, job):
    claim = led(services, job)
    runner(client).run("none")
    shared, *others = [str(part.blob) for part in part_rows(services, job)]
    twin = submit(client, kind="batch_predict", model="m", dataset=claim.spec["dataset"])["id"]
    with services.database.transaction() as session:
        session.add(JobPart(job_id=twin, number=0, first_row=0, n_rows=BATCH_ROWS, blob=shared))
    assert batch_predict.run(client.app.state.services, claim, quiet)
    assert services.storage.exists(shared)
    assert not any(services.storage.exists(blob) for blob in others)


def test_blobs_of_parts_stay_when_the_leader_has_lost_the_job(client, services, job):
    claim = led(services, job)
    runner(client).run("none")
    held = [str(part.blob) for part in part_rows(services, job)]
    with services.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job).values(lease_until=db_now() - 1))
        assert lifecycle.lose(session, job, claim.epoch, max_crashes=3) is not None
    assert not batch_predict.run(client.app.state.services, claim, quiet)
    assert all(services.storage.exists(blob) for blob in held)
    runner(client).run(job)
    assert len(result(client, job).splitlines()) == N_ROWS


def test_job_succeeds_when_the_blobs_of_its_parts_cannot_be_deleted(client, services, job, settings):
    class Undeletable(FolderStorage):
        def delete(self, sha256: str) -> None:
            raise Unavailable(f"{sha256} cannot be deleted.")

    claim = led(services, job)
    runner(client).run("none")
    held = [str(part.blob) for part in part_rows(services, job)]
    broken = replace(client.app.state.services, storage=Undeletable(Path(settings.resolved_storage_url)))
    assert batch_predict.run(broken, claim, quiet)
    assert all(services.storage.exists(blob) for blob in held)
    assert len(result(client, job).splitlines()) == N_ROWS


def test_helper_waits_for_nothing_when_no_job_is_shared(client, services, job):
    assert helped(services) is None
    assert part_rows(services, job) == []
