"""Both storages keep the same promises: a folder, and a bucket of an S3-compatible server on loopback."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest

from app.errors import NotFound, Unavailable
from app.settings import Settings
from app.storage import FolderStorage, S3Storage, Storage, make_storage
from tests.conftest import free_port

ABSENT = "0" * 64


def s3_settings(endpoint: str, data_dir: Path) -> Settings:
    return Settings(
        data_dir=data_dir,
        storage_url="s3://bucket/some/prefix",
        s3_endpoint=endpoint,
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return make_storage(Settings(data_dir=tmp_path))
    return make_storage(s3_settings(request.getfixturevalue("s3_endpoint"), tmp_path))


@pytest.mark.parametrize("data", [b"", b"some bytes", bytes(range(256)) * 20_000])
def test_storage_gives_back_the_bytes_under_their_hash(storage: Storage, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert storage.put_file(path) == storage.put_bytes(data) == expected
    assert storage.read(expected) == data
    assert storage.fetch(expected).read_bytes() == data
    assert path.read_bytes() == data


def test_storage_knows_what_exists(storage: Storage) -> None:
    sha256 = storage.put_bytes(b"what exists")
    assert storage.exists(sha256)
    assert not storage.exists(ABSENT)


def test_storage_raises_not_found_when_the_blob_is_absent(storage: Storage) -> None:
    for call in (storage.fetch, storage.read):
        with pytest.raises(NotFound):
            call(ABSENT)


def test_storage_deletes_and_does_not_mind_when_the_blob_is_gone(storage: Storage) -> None:
    sha256 = storage.put_bytes(b"to be deleted")
    storage.fetch(sha256)
    storage.delete(sha256)
    storage.delete(sha256)
    assert not storage.exists(sha256)
    with pytest.raises(NotFound):
        storage.fetch(sha256)


def test_storage_lists_its_blobs_and_nothing_else(storage: Storage, tmp_path: Path) -> None:
    names = {storage.put_bytes(data): len(data) for data in (b"", b"one", b"another")}
    if isinstance(storage, FolderStorage):
        (storage.root / "ab" / ".incoming-x").parent.mkdir(exist_ok=True)
        (storage.root / "ab" / ".incoming-x").write_bytes(b"half")
        (storage.root / "ab" / "README").write_bytes(b"not ours")
    else:
        assert isinstance(storage, S3Storage)
        for key in ("README", f"other/ab/{'ab' * 32}", f"cd/{'ab' * 32}"):
            obstore.put(storage.store, key, b"not ours")
    found = dict(storage.blobs())
    assert {name: size for name, size in found.items() if name in names} == names
    assert "ab" * 32 not in found
    assert all(len(name) == 64 for name in found)


def test_folder_storage_discards_what_was_left_half_written_long_ago(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "storage")
    sha256 = storage.put_bytes(b"whole")
    old, fresh = (storage.root / sha256[:2] / f".incoming-{name}" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert storage.discard_partial(3600) == 4
    assert (old.exists(), fresh.exists(), storage.read(sha256)) == (False, True, b"whole")


def test_storage_is_whole_when_many_put_and_fetch_the_same_at_once(storage: Storage) -> None:
    data = bytes(range(256)) * 4_000
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda _: storage.put_bytes(data), range(8)))
        answers = list(pool.map(storage.read, hashes))
    assert set(answers) == {data}


def test_storage_passes_its_check_when_it_is_there(storage: Storage) -> None:
    storage.check()


def test_folder_storage_reports_damage_and_never_returns_it(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "storage")
    sha256 = storage.put_bytes(b"the truth")
    (tmp_path / "storage" / sha256[:2] / sha256).write_bytes(b"not quite")
    with pytest.raises(Unavailable) as error:
        storage.read(sha256)
    assert error.value.code == "blob_damaged"


def test_folder_storage_heals_a_damaged_blob_when_it_is_put_again(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "storage")
    sha256 = storage.put_bytes(b"the truth")
    (tmp_path / "storage" / sha256[:2] / sha256).write_bytes(b"not quite")
    storage.put_bytes(b"the truth")
    assert storage.read(sha256) == b"the truth"


def test_folder_storage_leaves_no_part_of_a_file_when_writing_fails(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "storage")
    with pytest.raises(IsADirectoryError):
        storage.put_file(tmp_path)
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []


def test_s3_storage_fetches_again_when_its_cached_copy_is_damaged(s3_endpoint: str, tmp_path: Path) -> None:
    storage = make_storage(s3_settings(s3_endpoint, tmp_path))
    sha256 = storage.put_bytes(b"kept in the bucket")
    storage.fetch(sha256).write_bytes(b"damaged")
    assert storage.read(sha256) == b"kept in the bucket"


def test_s3_storage_is_shared_by_machines(s3_endpoint: str, tmp_path: Path) -> None:
    here = make_storage(s3_settings(s3_endpoint, tmp_path / "a"))
    there = make_storage(s3_settings(s3_endpoint, tmp_path / "b"))
    assert there.read(here.put_bytes(b"between machines")) == b"between machines"


def test_s3_storage_raises_unavailable_when_the_server_is_away(tmp_path: Path) -> None:
    settings = s3_settings(f"http://127.0.0.1:{free_port()}", tmp_path)
    storage = make_storage(settings)
    assert isinstance(storage, S3Storage)
    for call in (storage.check, lambda: storage.put_bytes(b"x"), lambda: storage.read(ABSENT)):
        with pytest.raises(Unavailable):
            call()
