"""The child processes that read uploads: how many there are, what they may take, and what happens when they fail."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from app.datasets import image_checker
from app.datasets.children import Children, command, environment
from app.datasets.formats import parquet
from app.datasets.image_checker import MAX_CRASHES, ImageChecker
from app.datasets.images import BadImage
from app.datasets.ingest import ingest
from app.datasets.schemas import UploadForm
from app.errors import InvalidInput, Unavailable
from app.settings import Settings
from tests.app.adapted import services_of
from tests.app.files import CSV, parquet_of, png, two_classes, zip_of

WAIT_SECONDS = 120.0


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def one_place(wait_seconds: float = 0.0) -> Children:
    return Children(Settings(upload_processes=1, upload_wait_seconds=wait_seconds))


def test_place_is_refused_when_taken_and_free_again_afterwards() -> None:
    children = one_place()
    with children.place():
        with pytest.raises(Unavailable) as caught, children.place():
            pass
        assert (caught.value.code, caught.value.headers["Retry-After"]) == ("uploads_busy", "10")
    for _ in range(9):
        with children.place():
            pass


def test_place_is_given_back_when_its_holder_fails() -> None:
    children = one_place()
    for _ in range(9):
        with pytest.raises(ValueError, match="no such luck"), children.place():
            raise ValueError("no such luck")


def test_place_is_waited_for_by_a_few_and_refused_to_the_rest() -> None:
    children = one_place(WAIT_SECONDS)
    served = []

    def wait() -> None:
        with children.place():
            served.append(threading.get_ident())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    with children.place():
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while children._known._value > 0:
            assert time.monotonic() < deadline, "the threads did not come to wait"
            time.sleep(0.01)
        with pytest.raises(Unavailable), children.place():
            pass
        assert served == []
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert len(served) == 3


def test_upload_of_images_or_parquet_is_put_off_when_too_many_are_read(client: TestClient, settings: Settings) -> None:
    services = services_of(client)
    object.__setattr__(services, "children", one_place())
    table = parquet_of({"x": [1, 2], "label": ["a", "b"]})
    with services.children.place():
        for filename, data in (("a.zip", zip_of(two_classes())), ("a.parquet", table)):
            answer = client.post("/v1/datasets", files={"file": (filename, data)}, data={"name": "some"})
            assert (answer.status_code, answer.json()["code"]) == (503, "uploads_busy")
            assert answer.json()["retryable"] is True
            assert answer.headers["Retry-After"] == "10"
        answer = client.post("/v1/datasets", files={"file": ("a.csv", CSV)}, data={"name": "some"})
        assert answer.status_code == 201
    answer = client.post("/v1/datasets", files={"file": ("a.zip", zip_of(two_classes()))}, data={"name": "some"})
    assert answer.status_code == 201
    assert list((settings.data_dir / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("module", "filename", "data"),
    [(image_checker, "a.zip", zip_of(two_classes())), (parquet, "a.parquet", parquet_of({"x": [1], "label": ["a"]}))],
)
def test_upload_is_put_off_when_no_process_can_be_started(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: Any, filename: str, data: bytes
) -> None:
    monkeypatch.setattr(module, "command", lambda *_: [str(tmp_path / "no-such-program")])
    answer = client.post("/v1/datasets", files={"file": (filename, data)}, data={"name": "some"})
    assert (answer.status_code, answer.json()["code"]) == (503, "uploads_busy")


def test_child_is_told_none_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAGRAFT_S3_SECRET_ACCESS_KEY", "secret")
    assert "secret" not in environment(LANG="C").values()
    assert environment(LANG="xx")["LANG"] == "xx"


# --- what a child may take --------------------------------------------------------------------------------------------


def ended(code: str) -> int:
    """The exit status of a Python program."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_SECONDS).returncode


def test_confined_process_gets_no_more_memory_than_it_may() -> None:
    code = (
        "from app.datasets.confinement import confine\n"
        "confine(2**26)\n"
        "bytearray(2**24)\n"
        "try: bytearray(2**28)\n"
        "except MemoryError: raise SystemExit(7)\n"
    )
    assert ended(code) == 7


def test_confined_process_opens_few_files_and_leaves_no_core() -> None:
    code = (
        "import resource\n"
        "from app.datasets.confinement import confine\n"
        "confine(2**30)\n"
        "files, core = (resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE))\n"
        "raise SystemExit(7 if max(files) <= 64 and core == (0, 0) else 1)\n"
    )
    assert ended(code) == 7


def test_confined_process_ends_when_it_computes_too_long() -> None:
    assert ended("from app.datasets.confinement import allow_cpu\nallow_cpu(0)\nwhile True: pass") == -signal.SIGXCPU


# --- images -----------------------------------------------------------------------------------------------------------

Use = Callable[..., None]
READY = (
    "import os, socket, sys, time\n"
    "from app.datasets.confinement import allow_cpu\n"
    "connection = socket.socket(fileno=int(sys.argv[1]))\n"
    "connection.sendall(b'ready\\n')\n"
)
CRASH = READY + "os._exit(3)"
GARBAGE = READY + "connection.sendall(b'{')"
HANG = READY + "time.sleep(600)"
COMPUTE = READY + "allow_cpu(0)\nwhile True: pass"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Puts a program in the place of the decoder, for the first `times` starts."""

    def use(code: str, times: int = 10**6) -> None:
        starts = iter(range(10**9))

        def replaced(module: str, *arguments: object) -> list[str]:
            if next(starts) >= times:
                return command(module, *arguments)
            return [sys.executable, "-c", code, *map(str, arguments)]

        monkeypatch.setattr(image_checker, "command", replaced)

    return use


def checker(children: Children | None = None) -> ImageChecker:
    return ImageChecker(Settings(), children or one_place())


@pytest.mark.parametrize(
    ("code", "patience", "message"),
    [
        (CRASH, None, "it crashes the decoder"),
        (GARBAGE, None, "it crashes the decoder"),
        (HANG, 0.01, "it takes more than 20 seconds"),
        (COMPUTE, None, "it takes more than 20 seconds"),
    ],
)
def test_image_is_bad_when_its_decoder_fails(
    use: Use, monkeypatch: pytest.MonkeyPatch, code: str, patience: float | None, message: str
) -> None:
    use(code, times=1)
    if patience is not None:
        monkeypatch.setattr(image_checker, "_PATIENCE", patience)
    with checker() as checking:
        with pytest.raises(BadImage, match=message) as caught:
            checking.check(png())
        assert caught.value.code == "undecodable_image"
        monkeypatch.setattr(image_checker, "_PATIENCE", 6)
        info = checking.check(png(side=30))
    assert (info.media_type, info.width, info.height) == ("image/png", 30, 30)


@pytest.mark.parametrize("code", ["pass", "raise ValueError", "import os; os.abort()", "print('ready')"])
def test_nobodys_image_is_bad_when_the_decoder_does_not_start(use: Use, code: str) -> None:
    use(code)
    children = one_place()
    with checker(children) as checking, pytest.raises(Unavailable):
        checking.check(png())
    with children.place():
        pass


def test_image_within_the_limits_on_pixels_is_refused_when_memory_does_not_suffice(use: Use) -> None:
    # The real decoder, which believes that it may take next to nothing.
    use(
        "import sys\nfrom app.datasets import image_child\n"
        "image_child.Limits.memory_bytes = 2**24\nimage_child.main()\n"
    )
    with checker() as checking:
        with pytest.raises(BadImage) as caught:
            checking.check(png(side=4_000))
        assert caught.value.code == "damaged_image"
        assert checking.check(png()).width == 40


def test_checker_ends_its_child_and_gives_its_place_back() -> None:
    children = one_place()
    before = set(psutil.Process().children())
    with checker(children) as checking:
        checking.check(png())
        (child,) = set(psutil.Process().children()) - before
        with pytest.raises(Unavailable), children.place():
            pass
    assert not child.is_running()
    with children.place():
        pass


def test_checker_starts_no_child_when_it_is_asked_nothing() -> None:
    before = set(psutil.Process().children())
    with checker():
        assert set(psutil.Process().children()) == before


def refused(tmp_path: Path, data: bytes, children: Children) -> InvalidInput:
    path = tmp_path / "upload"
    path.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        ingest(path, "f", UploadForm(name="x"), Settings(data_dir=tmp_path), tmp_path / "c", children=children)
    return caught.value


def test_upload_is_given_up_when_too_many_images_crash_the_decoder(use: Use, tmp_path: Path) -> None:
    use(CRASH)
    children = one_place()
    error = refused(tmp_path, zip_of(two_classes(4)), children)
    assert error.code == "bad_rows"
    assert [(item.pointer, item.code) for item in error.errors] == [
        (f"cat/{i}.png", "undecodable_image") for i in range(MAX_CRASHES)
    ]
    with children.place():
        pass


def test_upload_gives_its_place_back_when_its_labels_are_refused(tmp_path: Path) -> None:
    children = one_place()
    entries = {f"c{i}/1.png": png(side=4) for i in range(1_001)}
    assert refused(tmp_path, zip_of(entries), children).code == "too_many_classes"
    with children.place():
        pass
