"""Backup and restore on both databases and across them: everything comes back, and nothing that was tampered with."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner

from app import blobs
from app.backups import writing
from app.backups.containers import Sink
from app.backups.manifest import TableEntry, table_path
from app.backups.restoring import restore_backup
from app.backups.writing import write_backup
from app.cli import app
from app.db import Database
from app.dependencies import Services
from app.main import create_app
from app.migrate import is_current
from app.settings import Settings
from app.storage import FolderStorage, make_storage
from app.tables import Lease
from tests.app.adapted import publish
from tests.app.backups import DATA, elsewhere, filled, rows_of
from tests.conftest import _execute, environment
from tests.jobs import dataset_row

SECONDS = 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Iterator[Settings]:
    """Where to restore: an empty database of either kind, and an empty storage."""
    folder = tmp_path / "target"
    if request.param == "sqlite":
        yield elsewhere(settings, folder)  # not even migrated
        return
    admin: str = request.getfixturevalue("postgres")
    name = f"target_{os.getpid()}_{time.monotonic_ns()}"
    _execute(admin, f"CREATE DATABASE {name} TEMPLATE template_metagraft")
    yield settings.model_copy(update={"data_dir": folder, "database_url": admin.replace("/postgres?", f"/{name}?")})
    _execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def other(tmp_path: Path, settings: Settings) -> Settings:
    return elsewhere(settings, tmp_path / "other")


@pytest.mark.parametrize("name", ["folder", "file.tar"])
def test_everything_comes_back_when_it_is_restored(
    services: Services, target: Settings, tmp_path: Path, name: str
) -> None:
    names = filled(services)
    unnamed = services.storage.put_bytes(b"nobody's")
    written = write_backup(services.database, services.storage, tmp_path / name)
    storage = make_storage(target)
    restored = restore_backup(target, storage, tmp_path / name)
    assert (restored.rows, restored.blobs) == (written.rows, written.blobs) == (written.rows, 4)
    before = rows_of(services.settings)
    assert all(before.values())
    assert rows_of(target) == before
    assert [storage.read(sha256) for sha256 in names] == DATA
    assert not storage.exists(unnamed)


def test_restored_database_has_the_newest_schema_and_no_turns_of_dead_processes(
    services: Services, other: Settings, tmp_path: Path
) -> None:
    filled(services)
    write_backup(services.database, services.storage, tmp_path / "b")
    restore_backup(other, make_storage(other), tmp_path / "b")
    database = Database(other)
    with database.session(read_only=True) as session:
        assert not [name for name in session.scalars(select(Lease.name)) if name.startswith(("0leases", "1leases"))]
    assert is_current(other, database.engine)
    database.dispose()


def test_predictions_are_equal_before_and_after(client: TestClient, target: Settings, tmp_path: Path) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    publish(services, "fruit")
    publish(services, "weights", task="regression")
    client.put("/v1/models/fruit/aliases/champion", json={"version": 1})
    body = {"inputs": [{"size": 1.7, "colour": "red"}, {"size": 6}, {"colour": "blue"}], "explain": True}
    paths = ["/v1/models/fruit/predict?alias=champion", "/v1/models/weights/predict"]
    before = [client.post(path, json=body).json()["predictions"] for path in paths]
    write_backup(services.database, services.storage, tmp_path / "b.tar")
    restore_backup(target, make_storage(target), tmp_path / "b.tar")
    with TestClient(create_app(target), raise_server_exceptions=False) as again:
        assert [again.post(path, json=body).json()["predictions"] for path in paths] == before


class Paused(FolderStorage):
    """Waits before it gives out its first blob."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.may_go_on = threading.Event(), threading.Event()

    def fetch(self, sha256: str) -> Path:
        self.asked.set()
        assert self.may_go_on.wait(SECONDS)
        return super().fetch(sha256)


def test_backup_is_of_one_moment_although_the_service_goes_on(
    client: TestClient, other: Settings, tmp_path: Path
) -> None:
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    assert isinstance(services.storage, FolderStorage)
    storage = Paused(services.storage.root)
    files = {"file": ("data.csv", b"a,label\n1,x\n2,y\n")}
    dataset = client.post("/v1/datasets", files=files, data={"name": "old"}).json()
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(write_backup, services.database, storage, tmp_path / "b")
        try:
            assert storage.asked.wait(SECONDS)  # the rows have been read
            assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
            dataset_row(services, name="new", blob=services.storage.put_bytes(b"new"))
        finally:
            storage.may_go_on.set()
        assert making.result(SECONDS).blobs == 1
    restore_backup(other, make_storage(other), tmp_path / "b")
    with TestClient(create_app(other), raise_server_exceptions=False) as again:
        assert [item["name"] for item in again.get("/v1/datasets").json()["items"]] == ["old"]
        assert len(again.get(f"/v1/datasets/{dataset['id']}/examples").json()["items"]) == 2


def test_rows_of_all_tables_are_of_one_moment(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_table = writing._add_table

    def add_and_change(sink: Sink, name: str, lines: Iterator[bytes]) -> TableEntry:
        entry = add_table(sink, name, lines)
        if name == "projects":
            dataset_row(services, blob=services.storage.put_bytes(b"too late"))
        return entry

    monkeypatch.setattr(writing, "_add_table", add_and_change)
    write_backup(services.database, services.storage, tmp_path / "b")
    assert (tmp_path / "b" / table_path("datasets")).read_bytes() == b""


def test_lease_is_renewed_while_blobs_are_copied(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long backups outlast the lease that they began with."""
    monkeypatch.setattr(writing, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(writing, "LEASE_SECONDS", -1.0)  # runs out at once
    filled(services)
    found: list[bool] = []

    def renew(lease: Any) -> None:
        monkeypatch.setattr(writing, "LEASE_SECONDS", 3600.0)
        original(lease)
        with services.database.session(read_only=True) as session:
            found.append(blobs.is_backing_up(session))

    original = writing._Lease.renew
    monkeypatch.setattr(writing._Lease, "renew", renew)
    write_backup(services.database, services.storage, tmp_path / "b")
    assert found == [True] * 4


def _invoke(settings: Settings, *arguments: str) -> Any:
    values = {name: value for name, value in environment(settings).items() if name.startswith("METAGRAFT_")}
    return CliRunner().invoke(app, list(arguments), env=values)


def test_commands_back_up_and_restore(services: Services, other: Settings, tmp_path: Path) -> None:
    filled(services)
    path = str(tmp_path / "b.tar")
    made = _invoke(services.settings, "backup", path)
    assert (made.exit_code, "4 blobs" in made.output) == (0, True)
    assert _invoke(services.settings, "backup", path).exit_code == 1
    done = _invoke(other, "restore", path)
    assert (done.exit_code, "4 blobs" in done.output) == (0, True)
    assert rows_of(other) == rows_of(services.settings)
    again = _invoke(other, "restore", path)
    assert (again.exit_code, "not empty" in again.output) == (1, True)
    assert _invoke(other, "restore", str(tmp_path / "nowhere")).exit_code == 1
