"""Reading stored examples back."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.datasets import canonical, examples
from app.datasets.ingest import ingest
from app.datasets.schemas import UploadForm
from app.settings import Settings
from app.storage import FolderStorage
from app.tables import Dataset
from tests.app.files import CSV, two_classes, zip_of


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "storage")


def stored(storage: FolderStorage, data: bytes, **form: Any) -> Dataset:
    folder = storage.root.parent
    (folder / "upload").write_bytes(data)
    target = folder / "canonical.parquet"
    found = ingest(folder / "upload", "f", UploadForm(name="some", **form), Settings(data_dir=folder), target)
    return Dataset(
        modality=found.modality, task=found.task, n_examples=found.n_examples, columns=found.columns,
        blob=storage.put_file(target),
    )  # fmt: skip


def numbered(n: int) -> bytes:
    """A hundredth of the rows is of the class rare."""
    return b"a,label\n" + b"".join(b"%d,%s\n" % (i, b"rare" if i % 100 == 0 else b"common") for i in range(n))


def test_load_gives_texts_labels_and_keys(storage: FolderStorage) -> None:
    loaded = examples.load(storage, stored(storage, CSV))
    assert (loaded.modality, loaded.task, len(loaded)) == ("text", "classification", 3)
    assert loaded.inputs[1] == "what a waste of time"  # type: ignore[index]
    assert loaded.labels == ["positive", "negative", "positive"]
    assert loaded.keys[1] == hashlib.sha256(b"what a waste of time").hexdigest()


def test_load_gives_images_as_their_bytes(storage: FolderStorage) -> None:
    entries = two_classes()
    loaded = examples.load(storage, stored(storage, zip_of(entries)))
    assert loaded.inputs == list(entries.values())
    assert loaded.keys == [hashlib.sha256(data).hexdigest() for data in entries.values()]


def test_load_gives_columns_in_the_order_of_the_table_with_none_where_missing(storage: FolderStorage) -> None:
    loaded = examples.load(storage, stored(storage, b"z,a,y\n1,red,2.5\n,NA,3\n3,,4\n"))
    assert loaded.inputs == {"z": [1.0, None, 3.0], "a": ["red", None, None]}
    assert loaded.column_kinds == {"z": "numeric", "a": "categorical"}
    assert list(loaded.column_kinds) == ["z", "a"]
    assert loaded.labels == [2.5, 3.0, 4.0]


def test_keys_are_equal_exactly_when_the_inputs_are(storage: FolderStorage) -> None:
    loaded = examples.load(storage, stored(storage, b"a,b,label\n1,x,p\n1.0,x,q\n1,,p\n,x,p\n1,y,p\n-0,z,p\n0,z,p\n"))
    assert loaded.keys[0] == loaded.keys[1]
    assert loaded.keys[5] == loaded.keys[6]
    assert len(set(loaded.keys)) == 5


def test_load_takes_a_stratified_part_that_depends_only_on_the_seed(storage: FolderStorage) -> None:
    dataset = stored(storage, numbered(1_000))
    part = examples.load(storage, dataset, max_rows=100, seed=1)
    assert Counter(part.labels) == {"common": 99, "rare": 1}
    assert part == examples.load(storage, dataset, max_rows=100, seed=1)
    assert part != examples.load(storage, dataset, max_rows=100, seed=2)
    assert part.inputs["a"] == sorted(part.inputs["a"])  # type: ignore[call-overload]


def test_load_takes_one_of_each_class_when_the_part_is_small(storage: FolderStorage) -> None:
    part = examples.load(storage, stored(storage, numbered(1_000)), max_rows=2)
    assert set(part.labels) == {"common", "rare"}


def test_load_takes_a_part_of_a_regression(storage: FolderStorage) -> None:
    dataset = stored(storage, b"a,y\n" + b"".join(b"%d,%d.5\n" % (i, i) for i in range(500)))
    assert len(examples.load(storage, dataset, max_rows=7)) == 7


def test_iterate_gives_all_examples_in_order_in_bounded_batches(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "_FLUSH_ROWS", 2_048)
    dataset = stored(storage, numbered(5_000))
    batches = list(examples.iterate(storage, dataset, batch_rows=1_000))
    assert max(map(len, batches)) <= 1_000
    values = [value for batch in batches for value in batch.inputs["a"]]  # type: ignore[call-overload]
    assert values == list(range(5_000))
    whole = examples.load(storage, dataset)
    assert [key for batch in batches for key in batch.keys] == whole.keys


def test_preview_crosses_row_groups(storage: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "_FLUSH_ROWS", 1_024)
    dataset = stored(storage, numbered(5_000))
    found = examples.preview(storage, dataset, offset=1_020, limit=10)
    assert [example.row for example in found] == list(range(1_021, 1_031))
    assert examples.preview(storage, dataset, offset=5_000, limit=10) == []


def test_canonical_file_and_hash_do_not_depend_on_how_rows_arrive(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = storage.root.parent, b"a,b,label\n" + b"".join(b"%d,t%d,x\n" % (i, i) for i in range(3_000))
    (folder / "upload").write_bytes(data)
    arguments = (folder / "upload", "f", UploadForm(name="some"), Settings(data_dir=folder), folder / "c")
    first = ingest(*arguments)
    monkeypatch.setattr("app.datasets.rows.BATCH_ROWS", 7)
    assert ingest(*arguments).content_hash == first.content_hash


def test_ingest_uses_memory_of_a_batch_and_not_of_the_file(tmp_path: Path) -> None:
    # The peak of a child process is its own; 60 MB of text must not cost several times as much.
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(b"text,label\n")
        for i in range(60_000):
            file.write(b"%d " % i + b"word " * 200 + b",%d\n" % (i % 2))
    code = (
        "import resource, pathlib, sys\n"
        "from app.datasets.ingest import ingest\n"
        "from app.datasets.schemas import UploadForm\n"
        "from app.settings import Settings\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "ingest(folder / 'upload', 'f', UploadForm(name='x'), Settings(data_dir=folder), folder / 'c')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert int(answer.stdout) < 150


def test_load_tells_where_the_rows_of_a_part_stand(storage: FolderStorage) -> None:
    dataset = stored(storage, numbered(1_000))
    part = examples.load(storage, dataset, max_rows=10)
    assert isinstance(part.inputs, dict)
    assert part.positions == part.inputs["a"]  # column a counts the rows from 0
    assert examples.load(storage, dataset).positions is None
