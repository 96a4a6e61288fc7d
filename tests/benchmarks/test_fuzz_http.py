"""The short form of the made-up requests of `make fuzz`. And the check sees an answer that breaks the description."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import openapi
from app.dependencies import Services
from app.security import DEFAULT_PROJECT, SCOPES, create_key
from app.settings import Settings
from benchmarks.fuzz import schema
from benchmarks.fuzz.prepared import Prepared
from benchmarks.inprocess import serving


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def empty(settings: Settings, services: Services) -> Iterator[schema.Fuzz]:
    """Cases against a service that has a key and nothing else."""
    with services.database.transaction() as session:
        _, key = create_key(session, project_id=DEFAULT_PROJECT, name="fuzz", scopes=SCOPES)
    with serving(settings) as served:
        fuzz = schema.Fuzz(served.url, Prepared(key=key, ids={}))
        yield fuzz
        fuzz.close()


def test_every_answer_keeps_to_the_description() -> None:
    figures = schema.run("sqlite", short=True)
    assert [figure for figure in figures if not figure.reached] == []


@pytest.fixture
def silent_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """A description that says nothing of what is not found."""
    original = openapi.statuses
    monkeypatch.setattr(openapi, "statuses", lambda *operation: original(*operation) - {404, 422})


@pytest.mark.usefixtures("silent_description")
def test_answer_that_breaks_the_description_is_seen(empty: schema.Fuzz) -> None:
    empty.round(0, 1)
    assert any("404" in failure for failure in empty.tried["GET /v1/jobs/{job_id}"].failures)


def test_operations_are_asked_without_a_key_where_they_need_one(empty: schema.Fuzz) -> None:
    empty.without_keys()
    assert not any(tried.failures for tried in empty.tried.values())
    assert empty.tried["GET /v1/models"].statuses == {401: 2}
    assert empty.tried["GET /healthz"].statuses.total() == 0
