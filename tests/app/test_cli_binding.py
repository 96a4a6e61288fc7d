"""The API binds beyond loopback only once there is a key that opens it."""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from app.cli import app
from app.db import utc_now
from app.dependencies import Services
from app.loopback import is_beyond_loopback, is_loopback
from app.main import create_app
from app.security import DEFAULT_PROJECT, create_key
from app.settings import Settings
from tests.conftest import environment

BEYOND = [
    "0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "example.org", "localhost.example.org",
    "127.0.0.1.example.org", "0", "127.1",
]  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[uvicorn.Config]:
    """What uvicorn was asked to serve, instead of serving it."""
    found: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets=None: found.append(server.config))
    return found


def run(settings: Settings, *arguments: str, host: str | None = None) -> Result:
    variables = {name: value for name, value in environment(settings).items() if name.startswith("METAGRAFT_")}
    return CliRunner().invoke(
        app, list(arguments), env=variables if host is None else variables | {"METAGRAFT_HOST": host}
    )


def add_key(services: Services, **values: Any) -> None:
    with services.database.transaction() as session:
        key, _ = create_key(session, project_id=DEFAULT_PROJECT, name="k", scopes=["predict"])
        for name, value in values.items():
            setattr(key, name, value)


@pytest.mark.parametrize("host", BEYOND)
def test_address_reaches_beyond_this_machine(host: str):
    assert not is_loopback(host)


@pytest.mark.parametrize("host", LOOPBACK)
def test_address_is_this_machine_alone(host: str):
    assert is_loopback(host)
    assert not is_beyond_loopback(host)


def test_name_is_neither_this_machine_nor_beyond_it():
    assert not is_beyond_loopback("testserver")
    assert is_beyond_loopback("192.0.2.1")


@pytest.fixture
def forgotten_names() -> Iterator[None]:
    is_loopback.cache_clear()
    yield
    is_loopback.cache_clear()


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [(["127.0.0.1", "::1"], True), (["127.0.0.1", "192.0.2.1"], False), (["::ffff:192.0.2.1"], False), ([], False)],
)
def test_localhost_is_this_machine_only_when_it_resolves_to_nothing_else(
    monkeypatch: pytest.MonkeyPatch, forgotten_names: None, addresses: list[str], expected: bool
):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found)
    assert is_loopback("localhost") is expected


def test_localhost_is_not_this_machine_when_it_does_not_resolve(monkeypatch: pytest.MonkeyPatch, forgotten_names: None):
    def fail(*_args: Any, **_named: Any) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert not is_loopback("LOCALHOST")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", ""])
def test_api_refuses_to_bind_when_there_is_no_key(settings: Settings, served: list[uvicorn.Config], host: str):
    result = run(settings, "api", host=host)
    assert result.exit_code == 1
    assert "Refusing to bind" in result.output
    assert "metagraft keys create" in result.output
    assert served == []


def test_serve_refuses_to_bind_when_there_is_no_key(settings: Settings):
    result = run(settings, "serve", host="0.0.0.0")
    assert (result.exit_code, "Refusing to bind" in result.output) == (1, True)


def test_api_refuses_to_bind_when_every_key_is_expired_or_revoked(
    settings: Settings, services: Services, served: list[uvicorn.Config]
):
    add_key(services, expires_at=utc_now() - timedelta(seconds=1))
    add_key(services, revoked_at=utc_now())
    assert run(settings, "api", host="0.0.0.0").exit_code == 1
    assert served == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_api_binds_when_a_key_lives(settings: Settings, services: Services, served: list[uvicorn.Config], host: str):
    add_key(services)
    assert run(settings, "api", host=host).exit_code == 0
    assert [config.host for config in served] == [host]


def test_api_binds_to_loopback_without_a_key(settings: Settings, served: list[uvicorn.Config]):
    assert run(settings, "api").exit_code == 0
    assert [config.host for config in served] == ["127.0.0.1"]


@pytest.mark.parametrize(("address", "status"), [("0.0.0.0", 1), ("127.0.0.1", 0)])
def test_api_asks_an_inherited_socket_where_it_is_bound(
    settings: Settings, served: list[uvicorn.Config], address: str, status: int
):
    with socket.create_server((address, 0)) as listener:
        result = run(settings, "api", "--fd", str(os.dup(listener.fileno())))
    assert result.exit_code == status, result.output
    assert [config.host for config in served] == [address] * (1 - status)


def test_api_says_what_is_wrong_when_the_keys_cannot_be_read(settings: Settings):
    lost = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    result = run(lost, "api", host="0.0.0.0")
    assert (result.exit_code, "the keys cannot be read" in result.output) == (1, True)


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("192.0.2.1", 401)])
def test_open_service_is_closed_to_connections_that_come_in_elsewhere(settings: Settings, address: str, status: int):
    with TestClient(create_app(settings), base_url=f"http://{address}") as client:
        assert client.get("/v1/usage").status_code == status
        assert client.get("/metrics").status_code == status
