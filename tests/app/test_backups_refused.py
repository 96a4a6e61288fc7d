"""Backups that are damaged, of another version or not wanted here: refused, and nothing is written."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import blobs
from app.backups.errors import BackupError
from app.backups.manifest import MANIFEST, blob_path, table_path
from app.backups.restoring import restore_backup
from app.backups.writing import write_backup
from app.dependencies import Services
from app.settings import Settings
from app.storage import make_storage
from tests.app.backups import elsewhere, filled, rows_of


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """SQLite alone: nothing here depends on the kind."""
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def other(tmp_path: Path, settings: Settings) -> Settings:
    return elsewhere(settings, tmp_path / "other")


def _first_blob(services: Services) -> str:
    return filled(services)[0]


Damage = Callable[[Path, str], None]


def _remove_blob(folder: Path, sha256: str) -> None:
    (folder / blob_path(sha256)).unlink()


def _change_blob(folder: Path, sha256: str) -> None:
    (folder / blob_path(sha256)).write_bytes(b"something else")


def _change_rows(folder: Path, _sha256: str) -> None:
    path = folder / table_path("datasets")
    path.write_bytes(path.read_bytes().replace(b"tabular", b"TABULAR").replace(b"0datasets", b"9datasets"))


def _remove_rows(folder: Path, _sha256: str) -> None:
    (folder / table_path("jobs")).unlink()


def _change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _forget_blob(folder: Path, sha256: str) -> None:
    listed = json.loads((folder / MANIFEST).read_text())["blobs"]
    del listed[sha256]
    _change_manifest(folder, blobs=listed)


def _break_manifest(folder: Path, _sha256: str) -> None:
    (folder / MANIFEST).write_text("{")


def _name_a_path(folder: Path, _sha256: str) -> None:
    _change_manifest(folder, blobs={"../../etc/passwd": 1})


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a blob is missing": (_remove_blob, "BLOB"),
    "a blob was changed": (_change_blob, "BLOB was changed"),
    "a row was changed": (_change_rows, "tables/datasets.jsonl is damaged"),
    "a table is missing": (_remove_rows, "lacks tables/jobs.jsonl"),
    "a row names a blob that is not there": (_forget_blob, "names the blob BLOB"),
    "the manifest is no JSON": (_break_manifest, "manifest.json is damaged"),
    "the manifest names a path": (_name_a_path, "manifest.json is damaged"),
    "it is of a newer schema": (
        lambda folder, _: _change_manifest(folder, schema_revision="9999", service_version="7.0"),
        "schema 9999 of Metagraft 7.0",
    ),
    "it is of another format": (lambda folder, _: _change_manifest(folder, format=2), "format 2"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_backup_is_refused_and_nothing_written_when(
    services: Services, other: Settings, tmp_path: Path, case: str
) -> None:
    damage, message = DAMAGES[case]
    sha256 = _first_blob(services)
    write_backup(services.database, services.storage, tmp_path / "b")
    damage(tmp_path / "b", sha256)
    storage = make_storage(other)
    with pytest.raises(BackupError) as error:
        restore_backup(other, storage, tmp_path / "b")
    assert message.replace("BLOB", sha256) in str(error.value)
    assert list(storage.blobs()) == []
    assert not (other.data_dir / "other.db").exists()


def _rewrite(folder: Path, table: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Other rows, and a manifest that fits them."""
    path = folder / table_path(table)
    lines = change(path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(lines))
    listed = json.loads((folder / MANIFEST).read_text())["tables"]
    listed[table] = {"rows": len(lines), "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    _change_manifest(folder, tables=listed)


def _drop_table(folder: Path) -> None:
    listed = json.loads((folder / MANIFEST).read_text())["tables"]
    del listed["feedback"]
    _change_manifest(folder, tables=listed)


CONTRADICTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a row is there twice": (lambda folder: _rewrite(folder, "jobs", lambda rows: rows + rows[:1]), "do not fit"),
    "a row names one that is not there": (
        lambda folder: _rewrite(folder, "models", lambda rows: rows[:1]), "do not fit",
    ),
    "a row lacks a column": (lambda folder: _rewrite(folder, "jobs", lambda _: [b'{"id":"x"}\n']), "other columns"),
    "a row is no object": (lambda folder: _rewrite(folder, "jobs", lambda _: [b"[]\n"]), "line 1 of tables/jobs.jsonl"),
    "a time is none": (
        lambda folder: _rewrite(folder, "jobs", lambda rows: [rows[0].replace(b"2026-01", b"2026-99")]), "is no time",
    ),
    "a table is not listed": (_drop_table, "the table feedback"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_nothing_is_restored_when(services: Services, other: Settings, tmp_path: Path, case: str) -> None:
    contradict, message = CONTRADICTIONS[case]
    filled(services)
    write_backup(services.database, services.storage, tmp_path / "b")
    contradict(tmp_path / "b")
    with pytest.raises(BackupError, match=message):
        restore_backup(other, make_storage(other), tmp_path / "b")
    if (other.data_dir / "other.db").exists():
        assert sum(map(len, rows_of(other).values())) <= 1  # the default project


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.9])
def test_tar_file_is_refused_when_it_was_cut_off(
    services: Services, other: Settings, tmp_path: Path, kept: float
) -> None:
    filled(services)
    path = tmp_path / "b.tar"
    write_backup(services.database, services.storage, path)
    with tarfile.open(path) as tar:  # after the last entry there is only padding
        last = max(member.offset_data + member.size for member in tar.getmembers())
    path.write_bytes(path.read_bytes()[: int(kept * last)])
    with pytest.raises(BackupError):
        restore_backup(other, make_storage(other), path)


def test_tar_file_is_refused_when_an_entry_is_a_link(services: Services, other: Settings, tmp_path: Path) -> None:
    sha256 = _first_blob(services)
    write_backup(services.database, services.storage, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as old, tarfile.open(tmp_path / "c.tar", "w") as new:
        for member in old.getmembers():
            if member.name != blob_path(sha256):
                found = old.extractfile(member)
                assert found is not None
                new.addfile(member, io.BytesIO(found.read()))
        link = tarfile.TarInfo(blob_path(sha256))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        new.addfile(link)
    with pytest.raises(BackupError, match=sha256):
        restore_backup(other, make_storage(other), tmp_path / "c.tar")


def test_restoring_is_refused_when_the_database_is_not_empty(
    services: Services, other: Settings, tmp_path: Path
) -> None:
    filled(services)
    write_backup(services.database, services.storage, tmp_path / "b")
    restore_backup(other, make_storage(other), tmp_path / "b")
    before = rows_of(other)
    with pytest.raises(BackupError, match="not empty"):
        restore_backup(other, make_storage(other), tmp_path / "b")
    assert rows_of(other) == before


def test_backup_is_refused_when_a_blob_is_missing_and_leaves_nothing(services: Services, tmp_path: Path) -> None:
    sha256 = _first_blob(services)
    services.storage.delete(sha256)
    for name in ("b", "b.tar"):
        with pytest.raises(BackupError, match=sha256):
            write_backup(services.database, services.storage, tmp_path / name)
    assert not [path for path in tmp_path.iterdir() if "b" in {path.name, path.stem} or path.name.startswith(".backup")]
    with services.database.session(read_only=True) as session:
        assert not blobs.is_backing_up(session)


def test_backup_is_refused_when_its_target_exists(services: Services, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(BackupError, match="exists"):
        write_backup(services.database, services.storage, tmp_path / "b")
