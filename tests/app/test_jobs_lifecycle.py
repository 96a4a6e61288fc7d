import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.dependencies import Services
from app.errors import InternalError, InvalidInput
from app.jobs import lifecycle
from app.jobs.lifecycle import Standing
from tests.jobs import claimed, event_types, job_row, queued, try_claim


def test_claim_takes_the_oldest_job_when_none_is_named(services: Services):
    ids = [queued(services) for _ in range(3)]
    assert [claimed(services).job_id for _ in range(3)] == ids


def test_claim_gives_nothing_when_all_jobs_are_taken(services: Services):
    job_id = queued(services)
    claimed(services)
    assert try_claim(services) is None
    assert try_claim(services, job_id) is None


def test_claim_leaves_other_queues_alone(services: Services):
    queued(services, queue="train", kind="meta_train")
    with services.database.transaction() as session:
        assert lifecycle.claim(session, owner="w", lease_seconds=30, queues=["adapt"]) is None


def test_claim_hands_each_job_to_one_worker_when_many_race(services: Services):
    ids = [queued(services) for _ in range(12)]
    barrier = threading.Barrier(8)

    def work(number: int) -> list[str]:
        barrier.wait()
        taken = []
        while claim := try_claim(services, owner=f"worker-{number}"):
            taken.append(claim.job_id)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for part in pool.map(work, range(8)) for job_id in part]
    # A worker that meets only locked rows may leave early; the next claim finds what is left.
    while claim := try_claim(services):
        taken.append(claim.job_id)
    assert sorted(taken) == sorted(ids)


def test_claim_of_one_job_succeeds_once_when_many_race(services: Services):
    job_id = queued(services)
    barrier = threading.Barrier(8)

    def work(number: int) -> bool:
        barrier.wait()
        return try_claim(services, job_id, owner=f"worker-{number}") is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 1
    assert job_row(services.database, job_id).epoch == 1


def _retaken(services: Services) -> tuple[lifecycle.Claim, lifecycle.Claim]:
    """A claim whose lease ran out, and the one that came after it."""
    stale = claimed(services, queued(services), lease=-1.0)
    with services.database.transaction() as session:
        assert lifecycle.lose(session, stale.job_id, stale.epoch, max_crashes=5) is not None
    return stale, claimed(services, stale.job_id, owner="worker-2")


def test_stale_claim_writes_nothing_when_the_job_was_taken_again(services: Services):
    stale, fresh = _retaken(services)
    before = event_types(services.database, stale.job_id)
    with services.database.transaction() as session:
        lost = Standing(False)
        assert lifecycle.heartbeat(session, stale, lease_seconds=30) == lost
        advanced = lifecycle.advance(session, stale, progress=0.9, phase="late", eta_seconds=None, has_event=True)
        assert advanced == lost
        assert not lifecycle.hold_for_publishing(session, stale)
        assert not lifecycle.succeed(session, stale, {"late": True})
        assert not lifecycle.fail(session, stale, InternalError("late"))
        assert not lifecycle.cancelled(session, stale)
        assert lifecycle.give_back(session, stale) is None
        assert lifecycle.retry_later(session, stale, InternalError("late")) is None
    job = job_row(services.database, stale.job_id)
    assert (job.state, job.owner, job.epoch, job.progress, job.result) == ("running", fresh.owner, 2, 0.0, None)
    assert event_types(services.database, stale.job_id) == before


def test_heartbeat_extends_the_lease_while_the_claim_stands(services: Services):
    claim = claimed(services, queued(services), lease=0.0)
    before = job_row(services.database, claim.job_id).lease_until
    with services.database.transaction() as session:
        assert lifecycle.heartbeat(session, claim, lease_seconds=30) == Standing(True, cancel_requested=False)
    after = job_row(services.database, claim.job_id).lease_until
    assert before is not None
    assert after is not None
    assert 29 < after - before < 45


def test_heartbeat_does_not_count_as_advancing_when_nothing_advances(services: Services):
    claim = claimed(services, queued(services))
    before = job_row(services.database, claim.job_id).advanced_at
    with services.database.transaction() as session:
        lifecycle.heartbeat(session, claim, lease_seconds=30)
    assert job_row(services.database, claim.job_id).advanced_at == before


def test_lease_uses_the_databases_clock_when_claimed(services: Services):
    claim = claimed(services, queued(services), lease=30.0)
    until = job_row(services.database, claim.job_id).lease_until
    assert until is not None
    assert abs(until - 30 - time.time()) < 5  # both run on this machine


def test_lost_lease_counts_a_crash_and_no_attempt_when_requeued(services: Services):
    claim = claimed(services, queued(services), lease=-1.0)
    with services.database.transaction() as session:
        lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=2)
    job = job_row(services.database, claim.job_id)
    assert (job.state, job.crashes, job.attempt, job.owner) == ("queued", 1, 0, None)


def test_lost_lease_fails_the_job_when_the_cap_is_reached(services: Services):
    job_id = queued(services)
    for _ in range(2):
        claim = claimed(services, job_id, lease=-1.0)
        with services.database.transaction() as session:
            lifecycle.lose(session, job_id, claim.epoch, max_crashes=2)
    job = job_row(services.database, job_id)
    assert job.error is not None
    assert (job.state, job.error["code"], job.crashes) == ("failed", "worker_crashed", 2)
    assert event_types(services.database, job_id) == ["queued", "running", "requeued", "running", "failed"]


def test_lease_is_kept_when_it_has_not_run_out(services: Services):
    claim = claimed(services, queued(services))
    with services.database.transaction() as session:
        assert lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=2) is None


def test_giving_back_charges_nothing_when_the_worker_stops(services: Services):
    claim = claimed(services, queued(services))
    with services.database.transaction() as session:
        lifecycle.give_back(session, claim)
    job = job_row(services.database, claim.job_id)
    assert (job.state, job.crashes, job.attempt) == ("queued", 0, 0)


def test_retrying_charges_an_attempt_when_an_error_may_pass(services: Services):
    claim = claimed(services, queued(services))
    with services.database.transaction() as session:
        lifecycle.retry_later(session, claim, InternalError("x"))
    job = job_row(services.database, claim.job_id)
    assert (job.state, job.attempt) == ("queued", 1)
    assert claimed(services, claim.job_id).attempt == 2


@pytest.mark.parametrize("leave", ["retry_later", "give_back", "lose"])
def test_requeueing_cancels_when_a_cancel_was_asked_for(services: Services, leave: str):
    claim = claimed(services, queued(services), lease=-1.0)
    with services.database.transaction() as session:
        lifecycle.request_cancel(session, claim.job_id)
        if leave == "retry_later":
            lifecycle.retry_later(session, claim, InternalError("x"))
        elif leave == "give_back":
            lifecycle.give_back(session, claim)
        else:
            lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=1)
    job = job_row(services.database, claim.job_id)
    assert job.state == "cancelled"
    assert job.finished_at is not None


def test_failing_keeps_the_problem_when_the_client_is_at_fault(services: Services):
    claim = claimed(services, queued(services))
    with services.database.transaction() as session:
        lifecycle.fail(session, claim, InvalidInput("The labels are all equal.", code="one_class"))
    error = job_row(services.database, claim.job_id).error
    assert error is not None
    assert (error["status"], error["code"], error["detail"]) == (422, "one_class", "The labels are all equal.")


def test_cancel_and_claim_leave_one_outcome_when_they_race(services: Services):
    for _ in range(8):
        job_id = queued(services)
        barrier = threading.Barrier(2)

        def cancel(job_id: str = job_id, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with services.database.transaction() as session:
                assert lifecycle.request_cancel(session, job_id) is not None

        def take(job_id: str = job_id, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return try_claim(services, job_id) is not None

        with ThreadPoolExecutor(2) as pool:
            cancelling, taking = pool.submit(cancel), pool.submit(take)
            cancelling.result()
            is_taken = taking.result()
        job = job_row(services.database, job_id)
        assert (job.state, job.cancel_requested) == ("running" if is_taken else "cancelled", True)


def test_cancel_and_success_leave_one_outcome_when_they_race(services: Services):
    for _ in range(8):
        claim = claimed(services, queued(services))
        barrier = threading.Barrier(2)

        def cancel(claim: lifecycle.Claim = claim, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            with services.database.transaction() as session:
                return lifecycle.request_cancel(session, claim.job_id) is not None

        def succeed(claim: lifecycle.Claim = claim, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            with services.database.transaction() as session:
                return lifecycle.hold_for_publishing(session, claim) and lifecycle.succeed(session, claim, {})

        with ThreadPoolExecutor(2) as pool:
            cancelling, succeeding = pool.submit(cancel), pool.submit(succeed)
            assert cancelling.result() != succeeding.result()


def test_events_are_numbered_without_gaps_when_many_write(services: Services):
    claim = claimed(services, queued(services))

    def write(number: int) -> None:
        with services.database.transaction() as session:
            lifecycle.advance(session, claim, progress=number / 20, phase=str(number), eta_seconds=None, has_event=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(20)))
    assert event_types(services.database, claim.job_id) == ["queued", "running", *["progress"] * 20]


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_ended_job_never_changes_when_anything_is_tried(services: Services, end: str):
    claim = claimed(services, queued(services), lease=-1.0)
    with services.database.transaction() as session:
        if end == "succeeded":
            lifecycle.succeed(session, claim, {})
        elif end == "failed":
            lifecycle.fail(session, claim, InternalError("x"))
        else:
            lifecycle.request_cancel(session, claim.job_id)
            lifecycle.cancelled(session, claim)
    with services.database.transaction() as session:
        assert lifecycle.request_cancel(session, claim.job_id) is None
        assert lifecycle.lose(session, claim.job_id, claim.epoch, max_crashes=9) is None
        assert lifecycle.stall(session, claim.job_id, claim.epoch, stall_seconds=-1) is None
        assert not lifecycle.heartbeat(session, claim, lease_seconds=9).holds
    assert try_claim(services, claim.job_id) is None
    assert job_row(services.database, claim.job_id).state == end
