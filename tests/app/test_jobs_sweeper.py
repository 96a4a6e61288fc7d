import time
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from app.db import db_now, utc_now
from app.dependencies import Services
from app.jobs.sweeper import ENOUGH_HINTS, Sweeper
from app.queue import HintSender
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import IdempotencyKey, Job, Lease
from tests.jobs import claimed, event_types, job_row, queued, until


def _age(services: Services, job_id: str, **seconds: float) -> None:
    """Moves a moment of the row into the past."""
    values = {name: db_now() - ago for name, ago in seconds.items()}
    with services.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def test_sweep_requeues_and_hints_when_a_lease_ran_out(services: Services):
    job_id = claimed(services, queued(services), lease=-1.0).job_id
    Sweeper(services).sweep()
    assert job_row(services.database, job_id).state == "queued"
    assert services.hints.waiting("adapt") == 1


def test_sweep_fails_a_job_when_it_crashed_too_often(services: Services):
    job_id = queued(services)
    sweeper = Sweeper(services)
    for _ in range(services.settings.max_crashes):
        claimed(services, job_id, lease=-1.0)
        sweeper.sweep()
    job = job_row(services.database, job_id)
    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "worker_crashed")
    assert event_types(services.database, job_id).count("running") == services.settings.max_crashes


def test_sweep_fails_a_job_when_it_stopped_advancing(services: Services):
    job_id = claimed(services, queued(services)).job_id
    _age(services, job_id, advanced_at=services.settings.stall_seconds + 1)
    Sweeper(services).sweep()
    job = job_row(services.database, job_id)
    assert job.error is not None
    assert (job.state, job.error["code"]) == ("failed", "stalled")


def test_sweep_leaves_a_job_alone_when_it_runs_well(services: Services):
    job_id = claimed(services, queued(services)).job_id
    Sweeper(services).sweep()
    assert job_row(services.database, job_id).state == "running"
    assert services.hints.waiting("adapt") == 0


def test_sweep_hints_again_when_a_row_waited_long(services: Services):
    old, new = queued(services), queued(services)
    _age(services, old, hinted_at=services.settings.rehint_seconds + 1)
    sweeper = Sweeper(services)
    sweeper.sweep()
    assert services.hints.waiting("adapt") == 1
    sweeper.sweep()
    assert services.hints.waiting("adapt") == 1
    assert job_row(services.database, new).state == "queued"


def test_sweep_sends_no_more_hints_when_many_wait_already(services: Services):
    for number in range(ENOUGH_HINTS):
        services.hints.send(f"job_{number}", "adapt")
    _age(services, queued(services), hinted_at=1000)
    Sweeper(services).sweep()
    assert services.hints.waiting("adapt") == ENOUGH_HINTS


def test_sweep_forgets_idempotency_keys_when_they_are_old(services: Services):
    old = utc_now() - timedelta(hours=services.settings.idempotency_hours + 1)
    with services.database.transaction() as session:
        for key, created_at in (("old", old), ("new", utc_now())):
            session.add(
                IdempotencyKey(project_id=DEFAULT_PROJECT, key=key, request_hash="0" * 64, created_at=created_at)
            )
    Sweeper(services).sweep()
    with services.database.session(read_only=True) as session:
        assert list(session.scalars(select(IdempotencyKey.key))) == ["new"]


def test_turn_belongs_to_one_sweeper_when_several_ask(services: Services):
    first, second = Sweeper(services), Sweeper(services)
    assert first.take_turn()
    assert not second.take_turn()
    assert first.take_turn()


def test_turn_passes_on_when_its_holder_is_gone(services: Services):
    assert Sweeper(services).take_turn()
    with services.database.transaction() as session:
        session.execute(update(Lease).values(until=db_now() - 1))
    assert Sweeper(services).take_turn()


def test_turn_is_found_when_the_lease_row_is_missing(services: Services):
    with services.database.transaction() as session:
        session.execute(delete(Lease))
    sweeper = Sweeper(services)
    assert until(sweeper.take_turn)


def test_sweeper_goes_on_when_the_broker_was_away(services: Services, settings: Settings):
    away = HintSender(settings.model_copy(update={"broker_url": "redis+socket:///nowhere/valkey.sock"}))
    job_id = claimed(services, queued(services), lease=-1.0).job_id
    _age(services, queued(services), hinted_at=1000)
    sweeper = Sweeper(replace(services, hints=away))
    sweeper.start()
    try:
        until(lambda: job_row(services.database, job_id).state == "queued")
        again = claimed(services, job_id, lease=-1.0)
        until(lambda: job_row(services.database, again.job_id).crashes == 2)
    finally:
        sweeper.stop()
        away.close()


def test_sweeper_goes_on_when_the_database_was_away(services: Services, monkeypatch: pytest.MonkeyPatch):
    job_id = claimed(services, queued(services), lease=-1.0).job_id
    sweeper = Sweeper(services)
    url = services.database.engine.url
    if url.get_backend_name() == "sqlite":
        blocker = services.database.session()
        blocker.connection()  # holds the one write lock
        sweeper.start()
        time.sleep(3 * services.settings.sweep_seconds)
        assert job_row(services.database, job_id).state == "running"
        blocker.close()
    else:
        with services.database.transaction() as session:
            session.execute(update(Lease).values(until=db_now()))
        services.database.engine.dispose()
        sweeper.start()
    try:
        until(lambda: job_row(services.database, job_id).state == "queued")
    finally:
        sweeper.stop()


def test_sweeper_runs_in_the_api_when_a_worker_is_lost(client, services: Services):
    job_id = claimed(services, queued(services), lease=-1.0).job_id
    until(lambda: job_row(services.database, job_id).crashes == 1)
