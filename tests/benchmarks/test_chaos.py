"""The short forms of `make chaos`: what must hold of jobs when processes die. And the audit sees when it does not."""

import pytest

from app.db import Database
from app.ids import new_id
from app.jobs import lifecycle
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import Job, JobEvent
from benchmarks import servers
from benchmarks.chaos import failpoints
from benchmarks.chaos.__main__ import SCENARIOS
from benchmarks.chaos.ledger import audit

on_both = pytest.mark.parametrize("kind", servers.DATABASES)


@on_both
@pytest.mark.parametrize("scenario", ["idempotency", "poison", "kills"])
def test_short_form_reaches_what_is_required(scenario: str, kind: str) -> None:
    assert [figure for figure in SCENARIOS[scenario](kind, short=True) if not figure.reached] == []


def test_no_model_of_permuted_labels_is_promoted_without_a_warning() -> None:
    figures = SCENARIOS["permuted"]("sqlite", short=True)
    assert [figure for figure in figures if not figure.reached] == []


@on_both
def test_job_reaches_its_one_end_whatever_strikes_where(kind: str) -> None:
    cases, ledger, _ = failpoints.run(kind, ["claim, committed", "published, before the commit", "hint"])
    assert [case for case in cases if not case.is_right] == []
    assert ledger.violations == 0


def test_audit_sees_what_is_wrong(settings: Settings) -> None:
    database = Database(settings)
    with database.transaction() as session:
        job = Job(id=new_id("job"), project_id=DEFAULT_PROJECT, kind="adapt", queue="adapt", spec={}, state="succeeded")
        lifecycle.insert(session, job)
        for seq, kind in ((2, "succeeded"), (4, "succeeded")):
            session.add(JobEvent(job_id=job.id, seq=seq, type=kind, data={}))
    found = audit(database)
    database.dispose()
    assert (found.jobs, found.lost, found.mismatched, found.after_the_end, found.event_gaps) == (1, 0, 1, 1, 1)


@pytest.mark.parametrize(("scenario", "kind"), [("broker", "sqlite"), ("database", "postgresql"), ("drains", "sqlite")])
def test_short_form_over_processes_reaches_what_is_required(scenario: str, kind: str) -> None:
    assert [figure for figure in SCENARIOS[scenario](kind, short=True) if not figure.reached] == []
