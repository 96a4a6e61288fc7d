"""Garbage collection: what no row names goes, in two passes; everything else stays."""

from pathlib import Path

import pytest
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from app import blobs, collection
from app.cli import app
from app.collection import collect, mark, preview, sweep
from app.db import db_now
from app.dependencies import Services
from app.errors import Unavailable
from app.settings import Settings
from app.storage import FolderStorage, make_storage
from app.tables import BlobMark, Lease
from tests.app.adapted import publish
from tests.conftest import environment
from tests.jobs import dataset_row

HOUR = 3600.0


def _age(services: Services, hours: float) -> None:
    """Makes every mark older."""
    with services.database.transaction() as session:
        session.execute(update(BlobMark).values(marked_at=BlobMark.marked_at - hours * HOUR))


def _marks(services: Services) -> set[str]:
    with services.database.session(read_only=True) as session:
        return set(session.scalars(select(BlobMark.sha256)))


@pytest.fixture
def kept(services: Services) -> str:
    """A blob that a row names."""
    sha256 = services.storage.put_bytes(b"kept")
    dataset_row(services, blob=sha256)
    return sha256


@pytest.fixture
def lost(services: Services) -> str:
    """One that none does."""
    return services.storage.put_bytes(b"nobody's")


def test_collecting_deletes_what_no_row_names_once_it_is_old_enough(services: Services, kept: str, lost: str):
    first = collect(services.database, services.storage, older_than_hours=24)
    assert (first.deleted, first.waiting) == ([], [(lost, 8)])
    _age(services, 23.9)
    assert collect(services.database, services.storage, older_than_hours=24).deleted == []
    _age(services, 0.2)
    last = collect(services.database, services.storage, older_than_hours=24)
    assert (last.deleted, last.deleted_bytes, last.waiting) == ([(lost, 8)], 8, [])
    assert (services.storage.exists(kept), services.storage.exists(lost)) == (True, False)
    assert _marks(services) == set()


def test_collecting_deletes_at_once_when_no_age_is_asked_for(services: Services, kept: str, lost: str):
    assert collect(services.database, services.storage, older_than_hours=0).deleted == [(lost, 8)]
    assert services.storage.exists(kept)


def test_blob_that_is_named_between_the_passes_is_kept(services: Services, lost: str):
    mark(services.database, services.storage)
    _age(services, 100)
    dataset_row(services, blob=lost)
    assert sweep(services.database, services.storage, older_than_hours=24) == []
    assert services.storage.exists(lost)


def test_blob_that_was_named_in_between_starts_to_age_again(services: Services, lost: str):
    mark(services.database, services.storage)
    _age(services, 100)
    dataset = dataset_row(services, blob=lost)
    mark(services.database, services.storage)
    assert _marks(services) == set()
    with services.database.transaction() as session:
        session.delete(dataset)
    assert collect(services.database, services.storage, older_than_hours=24).deleted == []
    assert _marks(services) == {lost}


def test_mark_of_a_blob_that_is_gone_is_forgotten(services: Services, lost: str):
    mark(services.database, services.storage)
    services.storage.delete(lost)
    mark(services.database, services.storage)
    assert _marks(services) == set()


def test_marking_again_keeps_the_first_time(services: Services, lost: str):
    mark(services.database, services.storage)
    _age(services, 100)
    mark(services.database, services.storage)
    assert sweep(services.database, services.storage, older_than_hours=24) == [(lost, 8)]


def test_artifact_of_a_deleted_version_is_collected_and_that_of_a_kept_one_is_not(client, services: Services):
    publish(services, "fruit")
    publish(services, "nuts", task="regression")
    artifacts = {name: client.get(f"/v1/models/{name}/versions/1").json()["artifact"] for name in ("fruit", "nuts")}
    assert client.delete("/v1/models/nuts").status_code == 204
    found = collect(services.database, services.storage, older_than_hours=0)
    assert [sha256 for sha256, _ in found.deleted] == [artifacts["nuts"]]
    assert client.post("/v1/models/fruit/predict", json={"inputs": [{"size": 1}]}).status_code == 200


@pytest.mark.parametrize("hours", [0.0, 24.0])
def test_preview_names_what_collecting_would_delete_and_writes_nothing(
    services: Services, kept: str, lost: str, hours: float
):
    mark(services.database, services.storage)
    _age(services, 25)
    fresh = services.storage.put_bytes(b"fresh")
    before = _marks(services)
    expected = {lost, fresh} if hours == 0 else {lost}
    assert {sha256 for sha256, _ in preview(services.database, services.storage, older_than_hours=hours).deleted} == (
        expected
    )
    assert _marks(services) == before
    assert all(services.storage.exists(sha256) for sha256 in (kept, lost, fresh))
    assert {sha256 for sha256, _ in collect(services.database, services.storage, older_than_hours=hours).deleted} == (
        expected
    )


def test_nothing_is_collected_while_a_backup_is_made(services: Services, lost: str):
    with services.database.transaction() as session:
        session.execute(insert(Lease).values(name=blobs.backup_lease("x"), until=db_now() + 600))
    assert preview(services.database, services.storage, older_than_hours=0).deleted == []
    found = collect(services.database, services.storage, older_than_hours=0)
    assert (found.deleted, found.is_held_back) == ([], True)
    assert services.storage.exists(lost)


def test_more_blobs_than_one_statement_takes_are_collected(
    services: Services, kept: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(collection, "_BATCH", 3)
    lost = {services.storage.put_bytes(str(number).encode()) for number in range(8)}
    found = collect(services.database, services.storage, older_than_hours=0)
    assert {sha256 for sha256, _ in found.deleted} == lost
    assert dict(services.storage.blobs()) == {kept: 4}


def test_objects_of_a_bucket_are_collected(services: Services, s3_endpoint: str, tmp_path: Path):
    settings = Settings(
        data_dir=tmp_path / "s3", storage_url="s3://bucket/collection", s3_endpoint=s3_endpoint,
        s3_access_key_id="key", s3_secret_access_key="secret",
    )  # fmt: skip
    storage = make_storage(settings)
    kept, lost = storage.put_bytes(b"kept in the bucket"), storage.put_bytes(b"lost in the bucket")
    dataset_row(services, blob=kept)
    assert [sha256 for sha256, _ in collect(services.database, storage, older_than_hours=0).deleted] == [lost]
    assert (storage.exists(kept), storage.exists(lost)) == (True, False)


class Failing(FolderStorage):
    """Is away when the second blob is to be deleted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.deletions = 0

    def delete(self, sha256: str) -> None:
        self.deletions += 1
        if self.deletions == 2:
            raise Unavailable("away")
        super().delete(sha256)


def test_collecting_goes_on_where_it_stopped_when_the_storage_was_away(services: Services, tmp_path: Path):
    storage = Failing(tmp_path / "failing")
    for number in range(3):
        storage.put_bytes(str(number).encode())
    with pytest.raises(Unavailable):
        collect(services.database, storage, older_than_hours=0)
    assert len(collect(services.database, storage, older_than_hours=0).deleted) == 2
    assert list(storage.blobs()) == []


def _gc(settings: Settings, *arguments: str):
    values = {name: value for name, value in environment(settings).items() if name.startswith("METAGRAFT_")}
    return CliRunner().invoke(app, ["gc", *arguments], env=values)


def test_command_says_what_it_would_delete_and_deletes_it_when_told_to(services: Services, kept: str, lost: str):
    told = _gc(services.settings, "--dry-run", "--older-than", "0")
    assert told.exit_code == 0
    assert lost in told.output
    assert "Would delete 1 blob, 8 bytes" in told.output
    assert services.storage.exists(lost)
    done = _gc(services.settings, "--older-than", "0")
    assert "Deleted 1 blob, 8 bytes" in done.output
    assert (services.storage.exists(kept), services.storage.exists(lost)) == (True, False)


def test_command_refuses_an_age_that_is_negative(services: Services):
    assert _gc(services.settings, "--older-than", "-1").exit_code == 2
