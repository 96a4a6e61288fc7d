"""Readiness tells the database, the migrations, the storage and the broker apart, and never takes long."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fastapi.testclient import TestClient
from kombu.exceptions import OperationalError

from app.db import Database
from app.dependencies import Services
from app.main import create_app
from app.queue import HintSender
from app.readiness import Readiness
from app.settings import Settings
from app.storage import FolderStorage
from tests.app.adapted import services_of


@dataclass
class Hanging:
    """A storage whose check hangs until `release` is set."""

    release: threading.Event = field(default_factory=threading.Event)
    asked: int = 0


@pytest.fixture
def hanging(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    found = Hanging()

    def hang(_storage: FolderStorage) -> None:
        found.asked += 1
        found.release.wait(60)

    monkeypatch.setattr(FolderStorage, "check", hang)
    yield found
    found.release.set()


def test_check_that_hangs_is_named_after_a_while_and_asked_once(services: Services, hanging: Hanging) -> None:
    readiness = Readiness(services, patience=0.2)
    for _ in range(6):  # more often than there are threads
        assert "no answer within 0.2 s" in readiness.failures()["storage"]
    assert hanging.asked == 1
    hanging.release.set()
    patient = Readiness(services, patience=60.0)
    assert patient.failures() == {}
    for each in (readiness, patient):
        each.close()


def test_check_is_asked_anew_each_time(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    readiness = Readiness(services, patience=60.0)
    assert readiness.failures() == {}
    assert isinstance(services.storage, FolderStorage)
    monkeypatch.setattr(services.storage, "root", services.storage.root / "gone")
    assert list(readiness.failures()) == ["storage"]
    monkeypatch.undo()
    assert readiness.failures() == {}
    readiness.close()


def test_readyz_names_storage_alone_when_it_is_gone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = services_of(client).storage
    assert isinstance(storage, FolderStorage)
    monkeypatch.setattr(storage, "root", storage.root / "gone")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert [(item["code"], item["pointer"]) for item in answer.json()["errors"]] == [("storage", "/checks/storage")]
    assert str(storage.root) not in answer.text


def test_readyz_tells_why_it_is_degraded(settings: Settings) -> None:
    lonely = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(lonely)) as client:
        answer = client.get("/readyz").json()
    assert list(answer["reasons"]) == ["broker"]
    assert "jobs start later" in answer["reasons"]["broker"]


def test_schema_is_not_blamed_when_the_database_does_not_answer(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("nobody there")

    monkeypatch.setattr(Database, "session", away)
    monkeypatch.setattr("app.readiness.is_current", away)
    readiness = Readiness(services, patience=60.0)
    failures = readiness.failures()
    readiness.close()
    assert list(failures) == ["database", "migrations"]
    assert "Not known" in failures["migrations"]


def test_a_missing_broker_is_found_missing_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", slept.append)
    away = HintSender(settings.model_copy(update={"broker_url": "redis+socket:///nowhere/valkey.sock"}))
    with pytest.raises(OperationalError):
        away.check()
    assert not any(slept)
