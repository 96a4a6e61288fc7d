"""Real `metagraft worker` processes: Celery, its pool, a broker and a database, and faults in all of them."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from redis import Redis
from sqlalchemy import func, select

from app.dependencies import Services
from app.settings import Settings
from app.tables import JobPart, MetaLearner, ModelVersion
from tests.jobs import csv, ended, event_types, job_row, submit, until, upload

Start = Callable[..., subprocess.Popen[bytes]]

#: The protocol's own tests run on both databases; what is about processes needs one.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

#: Long enough to be disturbed, short enough to be waited for.
STEPS = 250


def _meta_train(client, steps: int = STEPS) -> str:
    sources = [upload(client, f"s{number}", csv(shift=number, rows=60, seed=number)) for number in range(3)]
    options = {"steps": steps, "evaluation_episodes": 4, "evaluation_shots": [1]}
    return str(submit(client, kind="meta_train", name="ml", sources=sources, options=options)["id"])


def _pool_process(worker: subprocess.Popen[bytes], services: Services, job_id: str) -> psutil.Process:
    """The process that runs the job, once it is well under way."""
    until(
        lambda: job_row(services.database, job_id).phase not in {"queued", "starting", "loading", "encoding"},
        seconds=120,
    )
    children = psutil.Process(worker.pid).children()
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def _count(services: Services, table: type[Any]) -> int:
    with services.database.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_worker_runs_a_job_when_the_broker_lost_its_hint(
    client, services: Services, settings: Settings, start_worker: Start
):
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    with Redis(unix_socket_path=settings.broker_url.removeprefix("redis+socket://")) as broker:
        broker.flushall()
    start_worker()
    assert ended(client, job["id"])["state"] == "succeeded"
    assert _count(services, ModelVersion) == 1


def test_job_succeeds_once_when_its_process_is_killed(client, services: Services, start_worker: Start):
    job_id = _meta_train(client)
    worker = start_worker()
    _pool_process(worker, services, job_id).kill()
    job = ended(client, job_id)
    assert job["state"] == "succeeded", job["error"]
    assert job_row(services.database, job_id).crashes == 1
    assert _count(services, MetaLearner) == 1
    types = [kind for kind in event_types(services.database, job_id) if kind != "progress"]
    assert types == ["queued", "running", "requeued", "running", "succeeded"]


@on_postgresql
def test_shared_prediction_is_whole_when_one_of_its_processes_is_killed(
    client, services: Services, start_worker: Start
):
    n_rows = 24_000
    adapt = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    queries = upload(client, "queries", csv(rows=n_rows, seed=5))
    worker = start_worker(METAGRAFT_WORKER_CONCURRENCY="2")
    assert ended(client, adapt["id"])["state"] == "succeeded"
    job_id = submit(client, kind="batch_predict", model="m", dataset=queries)["id"]
    _pool_process(worker, services, job_id).kill()
    job = ended(client, job_id)
    assert job["state"] == "succeeded", job["error"]
    lines = client.get(job["result"]["download"]).text.splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(1, n_rows + 1))
    assert _count(services, JobPart) == 0


@on_postgresql
def test_job_succeeds_once_when_its_process_hangs_and_comes_back(client, services: Services, start_worker: Start):
    job_id = _meta_train(client)
    hanging = _pool_process(start_worker(), services, job_id)
    hanging.suspend()
    try:
        start_worker()
        job = ended(client, job_id)
    finally:
        hanging.resume()
    assert job["state"] == "succeeded", job["error"]
    before = event_types(services.database, job_id)
    # It learns at its next step that the job is gone, drops its work, and takes the next job.
    later = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    assert ended(client, later["id"])["state"] == "succeeded"
    assert _count(services, MetaLearner) == 1
    assert event_types(services.database, job_id) == before


@on_sqlite
def test_running_job_finishes_when_the_worker_is_told_to_stop(client, services: Services, start_worker: Start):
    first, second = _meta_train(client), _meta_train(client)
    worker = start_worker(METAGRAFT_DRAIN_SECONDS="60")
    child = _pool_process(worker, services, first)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=120) == 0
    assert job_row(services.database, first).state == "succeeded"
    assert job_row(services.database, second).state == "queued"
    assert not child.is_running()


@on_postgresql
def test_running_job_is_given_back_when_it_outlasts_the_drain(client, services: Services, start_worker: Start):
    job_id = _meta_train(client, steps=100_000)
    worker = start_worker(METAGRAFT_DRAIN_SECONDS="0.5")
    child = _pool_process(worker, services, job_id)
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=90)
    job = job_row(services.database, job_id)
    assert (job.state, job.attempt, job.crashes) == ("queued", 0, 0)
    assert not child.is_running()


@on_sqlite
def test_worker_runs_the_next_job_when_one_was_cancelled(client, services: Services, start_worker: Start):
    long = _meta_train(client, steps=100_000)
    worker = start_worker()
    _pool_process(worker, services, long)
    client.post(f"/v1/jobs/{long}/cancel")
    job = submit(client, kind="adapt", dataset=upload(client), model="m", strategy="target_only")
    assert ended(client, long)["state"] == "cancelled"
    assert ended(client, job["id"])["state"] == "succeeded"


@on_sqlite
def test_pool_ends_when_the_workers_main_process_is_killed(client, services: Services, start_worker: Start):
    job_id = _meta_train(client, steps=100_000)
    worker = start_worker()
    child = _pool_process(worker, services, job_id)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    until(lambda: job_row(services.database, job_id).state == "queued")


@on_sqlite
def test_worker_refuses_to_start_when_a_queue_is_unknown(settings: Settings, start_worker: Start):
    assert start_worker(METAGRAFT_WORKER_QUEUES="adapt,dance").wait(timeout=120) == 2
