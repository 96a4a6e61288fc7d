"""What one connection may cost: the size of its head, the patience with its client, and how many there may be."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import connections
from app.connections import Connections, room_for
from app.dependencies import Services
from app.settings import Settings
from benchmarks.inprocess import Served, serving
from tests.jobs import queued, until

PATIENT = 60.0
#: In each test only what it is about is hasty: a busy machine may take a while between two lines of a client.
HASTY_HEAD, HASTY_BODY = {"head_seconds": 2.0}, {"body_seconds": 1.0}
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def patient(settings: Settings) -> Iterator[Served]:
    """A server with the usual patience."""
    with serving(settings) as served:
        yield served


@pytest.fixture
def hasty(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Served]:
    """One with these settings."""
    with serving(settings.model_copy(update=request.param)) as served:
        yield served


def with_settings(**changes: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("hasty", [changes], indirect=True, ids=[""])


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENT)


def rest(client: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    received = bytearray()
    try:
        while chunk := client.recv(65_536):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


def told(served: Served, request: bytes) -> tuple[int, str]:
    """Status and code of the problem that the request is answered with before the connection is closed."""
    return problem(answer_to(served, request))


def answer_to(served: Served, request: bytes) -> bytes:
    with closing(connect(served)) as client:
        client.sendall(request)
        return rest(client)


def problem(answer: bytes) -> tuple[int, str]:
    content = content_of(answer)
    return content["status"], content["code"]


def content_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    parsed = httpx.Response(int(head.split()[1]), content=body)
    assert b"application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head.lower()
    assert b"connection: close" in head.lower()
    assert parsed.json()["status"] == parsed.status_code
    return dict(parsed.json())


def test_head_is_refused_when_it_is_too_large_or_malformed(patient: Served) -> None:
    assert told(patient, GET + b"X: " + b"x" * 70_000 + b"\r\n\r\n") == (431, "head_too_large")
    assert told(patient, GET + b"".join(b"X-%d: y\r\n" % i for i in range(101)) + b"\r\n") == (431, "too_many_headers")
    assert told(patient, b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n\r\n") == (414, "uri_too_long")
    for nonsense in [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", GET + b"Bad Name: x\r\n\r\n", b"\x00" * 100]:
        assert told(patient, nonsense) == (400, "malformed_request"), nonsense
    assert told(patient, GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")[0] == 400
    assert patient.connections.refused["malformed"] == 5


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET %b?q=1 HTTP/1.1\r\nHost: localhost\r\nBad Name: x\r\n\r\n",
        b"GET %b/" + b"x" * 17_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["large", "malformed", "long"],
)
def test_refusal_of_a_head_carries_the_error_of_open_inference_when_its_path_is_there(
    patient: Served, beginning: bytes
) -> None:
    content = content_of(answer_to(patient, beginning.replace(b"%b", b"/v2")))
    assert content["error"] == content["detail"]
    assert "error" not in content_of(answer_to(patient, beginning.replace(b"%b", b"/v1/v2")))


@with_settings(**HASTY_BODY)
def test_refusal_of_a_body_carries_the_error_of_open_inference_when_its_path_is_there(hasty: Served) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    assert content_of(answer_to(hasty, head))["error"] == "The body of the request came too slowly."


def test_head_within_its_limits_is_answered(patient: Served) -> None:
    headers = {f"X-{i}": "y" * 500 for i in range(90)}
    with httpx.Client(base_url=patient.url, timeout=PATIENT, trust_env=False) as client:
        assert client.get("/healthz", params={"q": "x" * 15_000}, headers=headers).status_code == 200


@with_settings(**HASTY_HEAD)
def test_client_that_sends_nothing_is_let_go(hasty: Served) -> None:
    with closing(connect(hasty)) as client:
        assert rest(client) == b""
    assert hasty.connections.refused["silent"] == 1


@with_settings(**HASTY_HEAD)
def test_client_that_never_ends_its_head_is_told_so(hasty: Served) -> None:
    assert told(hasty, GET) == (408, "request_timeout")
    assert hasty.connections.refused["slow_head"] == 1


@with_settings(**HASTY_HEAD, **HASTY_BODY)
@pytest.mark.parametrize(
    "beginning",
    [GET + b"X-Long: ", b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"],
    ids=["head", "body"],
)
def test_client_that_drips_is_told_so_although_it_never_falls_silent(hasty: Served, beginning: bytes) -> None:
    with closing(connect(hasty)) as client:
        client.sendall(beginning)
        client.settimeout(0.02)
        answer = b""
        for _ in range(3_000):
            client.sendall(b"x")
            with suppress(TimeoutError):
                answer = client.recv(65_536)
                break
        assert answer
        client.settimeout(PATIENT)
        assert problem(answer + rest(client)) == (408, "request_timeout")


@with_settings(**HASTY_BODY)
@pytest.mark.parametrize(
    ("path", "kind", "beginning"),
    [
        ("/v1/jobs", "application/json", "{"),
        ("/v1/models/m/predict", "application/json", "{"),
        ("/v1/datasets", "multipart/form-data; boundary=b", "--b\r\n"),
    ],
)
def test_client_that_never_ends_its_body_is_told_so(hasty: Served, path: str, kind: str, beginning: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    assert told(hasty, (head + beginning).encode()) == (408, "request_timeout")
    assert hasty.connections.refused["slow_body"] == 1


@with_settings(keep_alive_seconds=1)
def test_connection_is_closed_when_it_is_idle_whatever_blank_lines_it_sends(hasty: Served) -> None:
    with closing(connect(hasty)) as client:
        client.sendall(GET + b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        client.sendall(b"\r\n")
        rest(client)
    assert hasty.connections.refused.total() == 0


@with_settings(send_seconds=0.5)
def test_client_that_takes_in_no_answer_is_cut_off(hasty: Served, caplog: pytest.LogCaptureFixture) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(PATIENT)
        client.connect(("127.0.0.1", hasty.port))
        client.sendall(request * 150)
        until(lambda: hasty.connections.refused["slow_reader"], seconds=PATIENT)
        until(lambda: not len(hasty.connections), seconds=PATIENT)
    assert [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "ERROR"] == []


def test_good_client_is_answered_although_silent_ones_take_every_connection(settings: Settings) -> None:
    with serving(settings.model_copy(update={"max_connections": 4})) as served, ExitStack() as stack:
        silent = [stack.enter_context(closing(connect(served))) for _ in range(10)]
        with httpx.Client(base_url=served.url, timeout=PATIENT, trust_env=False) as client:
            for _ in range(5):
                assert client.get("/healthz", headers={"Connection": "close"}).status_code == 200
        assert rest(silent[0]) == b""
        assert len(served.connections) <= 4
        assert served.connections.refused["made_room"] >= 6


def test_client_is_told_to_come_back_when_every_connection_is_being_answered(
    settings: Settings, services: Services
) -> None:
    job_id = queued(services)
    follow = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    with serving(settings.model_copy(update={"max_connections": 2})) as served, ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(closing(connect(served)))
            client.sendall(follow)
            assert client.recv(12) == b"HTTP/1.1 200"
        assert told(served, GET + b"\r\n") == (503, "overloaded")
        live = content_of(answer_to(served, b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert live["error"] == "Too many connections; try again."
        assert served.connections.refused["made_room"] == 0


# --- who has to go ----------------------------------------------------------------------------------------------------


class FakeConnection:
    def __init__(self, registry: Connections, waits_since: float | None, is_sending_body: bool = False) -> None:
        self.registry, self.waits_since, self.is_sending_body = registry, waits_since, is_sending_body
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True

    def look(self, now: float) -> None: ...


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Connections:
    found = Connections(Settings(max_connections=3))
    monkeypatch.setattr(found, "_start_looking", lambda: None)  # no event loop runs here
    return found


def test_longest_waiting_goes_first_and_one_being_answered_never(registry: Connections) -> None:
    kept, newer, older = (FakeConnection(registry, since) for since in (None, 20.0, 10.0))
    assert [registry.admit(each) for each in (kept, newer, older)] == [True] * 3
    assert registry.admit(FakeConnection(registry, 30.0))
    assert (kept.is_cut, newer.is_cut, older.is_cut) == (False, False, True)


def test_one_that_sends_a_body_goes_after_the_idle(registry: Connections) -> None:
    uploading = FakeConnection(registry, 1.0, is_sending_body=True)
    idle = FakeConnection(registry, 2.0)
    for each in (uploading, idle, FakeConnection(registry, None), FakeConnection(registry, None)):
        assert registry.admit(each)
    assert (uploading.is_cut, idle.is_cut) == (False, True)
    assert registry.admit(FakeConnection(registry, None))
    assert uploading.is_cut


def test_surplus_is_told_so_up_to_a_number_and_then_cut_off(registry: Connections) -> None:
    for _ in range(3):
        assert registry.admit(FakeConnection(registry, None))
    surplus = [FakeConnection(registry, 1.0) for _ in range(connections.MAX_SURPLUS + 1)]
    assert not any(registry.admit(each) for each in surplus)
    assert [each.is_cut for each in surplus] == [False] * connections.MAX_SURPLUS + [True]
    assert registry.refused["overload"] == len(surplus)


def test_connections_are_bounded_by_the_open_files_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (300, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: asked.append(limits))
    assert room_for(1_000) == 600 - connections.OTHER_FILES
    assert [room_for(20), room_for(3)] == [20, 3]
    assert asked == [(600, 600)]
