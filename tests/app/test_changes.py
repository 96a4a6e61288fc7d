"""What processes remember of the database, and that they notice when it is out of date."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.changes import FRESH_SECONDS, Remembered
from app.db import Database
from app.dependencies import Services
from app.ids import new_id
from app.jobs import streaming
from app.main import make_services
from app.models import aliases
from app.models.service import delete_model, delete_version
from app.security import DEFAULT_PROJECT, create_key
from app.settings import Settings
from app.tables import ApiKey, ModelAlias, Project
from tests.app.adapted import publish, services_of
from tests.jobs import queued


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """Answers by how often it was asked."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, _session: Session) -> int:
        self.reads += 1
        return self.reads


def project(session: Session) -> None:
    session.add(Project(id=new_id("prj"), name=new_id("prj")))


def new_key(session: Session) -> None:
    create_key(session, project_id=DEFAULT_PROJECT, name="k", scopes=["predict"])


def touch_all_keys(session: Session) -> None:
    session.execute(update(ApiKey).values(revoked_at=None))


def move(session: Session) -> None:
    aliases.put(session, DEFAULT_PROJECT, "m", "champion", number=1, if_match=None)


def forget_aliases(session: Session) -> None:
    session.execute(delete(ModelAlias))


def remove_version(session: Session) -> None:
    delete_version(session, DEFAULT_PROJECT, "m", 2)


def remove_model(session: Session) -> None:
    delete_model(session, DEFAULT_PROJECT, "m")


@pytest.fixture
def other(settings: Settings) -> Database:
    """The same database as another process has it."""
    return Database(settings)


CHANGES = [new_key, touch_all_keys, move, forget_aliases, remove_version, remove_model]


@pytest.mark.parametrize("change", CHANGES)
def test_change_in_another_process_is_noticed_at_the_next_look(
    services: Services, other: Database, change: Callable[[Session], None]
):
    publish(services, "m")
    publish(services, "m")
    clock, read = Clock(), Reader()
    remembered: Remembered[str, int] = Remembered(services.database, clock)
    assert remembered.get_or_read("a", read) == 1
    with other.transaction() as session:
        change(session)
    assert remembered.get("a") == 1  # trusted without a look
    clock.now += FRESH_SECONDS
    assert remembered.get("a") is None
    assert remembered.get_or_read("a", read) == 2


@pytest.mark.parametrize("change", CHANGES)
def test_change_in_this_process_holds_at_once(services: Services, change: Callable[[Session], None]):
    publish(services, "m")
    publish(services, "m")
    read = Reader()
    remembered: Remembered[str, int] = Remembered(services.database, Clock())
    remembered.get_or_read("a", read)
    with services.database.transaction() as session:
        change(session)
    assert remembered.get("a") is None
    assert remembered.get_or_read("a", read) == 2


def test_nothing_is_forgotten_when_nothing_that_matters_changed(services: Services, other: Database):
    clock, read = Clock(), Reader()
    remembered: Remembered[str, int] = Remembered(services.database, clock)
    remembered.get_or_read("a", read)
    with other.transaction() as session:
        project(session)
    clock.now += FRESH_SECONDS
    assert remembered.get_or_read("a", read) == 1


def test_change_that_is_rolled_back_is_none(services: Services, other: Database):
    clock, read = Clock(), Reader()
    remembered: Remembered[str, int] = Remembered(services.database, clock)
    remembered.get_or_read("a", read)
    with other.session() as session:
        new_key(session)
        session.rollback()
    clock.now += FRESH_SECONDS
    assert remembered.get_or_read("a", read) == 1


def test_change_inside_a_savepoint_counts_with_its_transaction(services: Services, other: Database):
    clock, read = Clock(), Reader()
    remembered: Remembered[str, int] = Remembered(services.database, clock)
    remembered.get_or_read("a", read)
    with other.transaction() as session:
        with session.begin_nested():
            new_key(session)
        project(session)
    clock.now += FRESH_SECONDS
    assert remembered.get_or_read("a", read) == 2


def test_what_reading_raises_is_not_remembered(services: Services):
    remembered: Remembered[str, int] = Remembered(services.database, Clock())

    def fail(_session: Session) -> int:
        raise LookupError

    with pytest.raises(LookupError):
        remembered.get_or_read("a", fail)
    assert remembered.get_or_read("a", Reader()) == 1


def test_change_while_a_value_is_read_is_not_covered_by_it(services: Services, other: Database):
    clock = Clock()
    remembered: Remembered[str, int] = Remembered(services.database, clock)
    remembered.get_or_read("b", Reader())

    def overtaken(_session: Session) -> int:
        with other.transaction() as session:
            new_key(session)
        clock.now += FRESH_SECONDS
        remembered.get_or_read("b", Reader())  # another request looks, and sees the change
        return 1

    assert remembered.get_or_read("a", overtaken) == 1
    assert remembered.get("a") is None


def test_every_process_answers_by_the_new_version_within_two_seconds(client: TestClient, settings: Settings):
    row = {"inputs": [{"size": 1.0, "colour": "red"}]}
    publish(services_of(client), "m")
    assert client.post("/v1/models/m/predict", json=row).json()["version"] == 1
    elsewhere = make_services(settings)
    try:
        publish(elsewhere, "m")
        asked = services_of(client).versions
        asked._looked_at -= FRESH_SECONDS
        assert client.post("/v1/models/m/predict", json=row).json()["version"] == 2
    finally:
        elsewhere.database.dispose()


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs", "/v1/models/m", "/v1/models/m/versions", "/v1/models/m/aliases/latest", "/v2/models/m"],
)
def test_client_that_has_read_of_a_new_version_is_answered_by_it(client: TestClient, settings: Settings, path: str):
    row = {"inputs": [{"size": 1.0, "colour": "red"}]}
    publish(services_of(client), "m")
    asked = services_of(client).versions
    asked._clock = lambda: 1.0  # half a second never passes
    assert client.post("/v1/models/m/predict", json=row).json()["version"] == 1
    elsewhere = make_services(settings)
    try:
        publish(elsewhere, "m")
    finally:
        elsewhere.database.dispose()
    assert client.post("/v1/models/m/predict", json=row).json()["version"] == 1
    assert client.get(path).status_code == 200
    assert client.post("/v1/models/m/predict", json=row).json()["version"] == 2


def test_event_that_is_streamed_is_not_older_than_the_next_answer(services: Services):
    job_id = queued(services)
    remembered: Remembered[str, int] = Remembered(services.database, Clock())
    remembered.get_or_read("a", Reader())
    found, _ = streaming._read(services.database, job_id, 0)
    assert found
    assert remembered.get("a") is None


def test_model_named_again_after_its_deletion_is_the_new_one(client: TestClient):
    row = {"inputs": [{"size": 1.0, "colour": "red"}]}
    publish(services_of(client), "m")
    assert client.post("/v1/models/m/predict", json=row).status_code == 200
    assert client.delete("/v1/models/m").status_code == 204
    assert client.post("/v1/models/m/predict", json=row).status_code == 404
    publish(services_of(client), "m")
    assert client.post("/v1/models/m/predict", json=row).status_code == 200
