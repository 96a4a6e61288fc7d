"""The load generator, in its own process, against a server that counts."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving.generator import complaint, parsed
from benchmarks.serving.load import Generator, Order, Request, generator


@dataclass
class Counting:
    """A server that answers what it was sent, and remembers every body and every connection."""

    port: int = 0
    bodies: Counter[str] = field(default_factory=Counter)
    connections: set[int] = field(default_factory=set)
    most_at_once: int = 0


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: Counting
    lock = threading.Lock()
    now = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with Echo.lock:
            Echo.now += 1
            self.seen.most_at_once = max(self.seen.most_at_once, Echo.now)
            self.seen.bodies[body.decode()] += 1
            self.seen.connections.add(self.client_address[1])
        time.sleep(0.002)
        with Echo.lock:
            Echo.now -= 1
        self.send_response(500 if self.path == "/broken" else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:3], body[3:], b"")))
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def counting() -> Iterator[Counting]:
    seen = Counting()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Seeing", (Echo,), {"seen": seen}))
    seen.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def load() -> Iterator[Generator]:
    with generator() as made:
        yield made


def request(number: int, expected: object = None, path: str = "/") -> Request:
    checks = [] if expected is None else [(("items", 0), [expected])]
    return Request(path=path, body=json.dumps({"items": [number]}), checks=checks)


def order(counting: Counting, requests: list[Request], **changes: float) -> Order:
    given = {"concurrency": 1, "seconds": 60.0, "count": len(requests), **changes}
    return Order(port=counting.port, requests=requests, **given)  # type: ignore[arg-type]


def test_load_sends_every_request_once_and_in_turn_when_the_count_is_theirs(load, counting) -> None:
    found = load.run(order(counting, [request(number) for number in range(40)], concurrency=4))
    assert (found.requests, found.wrong, len(found.latencies_ms)) == (40, 0, 40)
    assert counting.bodies == Counter(json.dumps({"items": [number]}) for number in range(40))


def test_load_begins_again_when_the_requests_are_fewer_than_the_count(load, counting) -> None:
    assert load.run(order(counting, [request(1), request(2)], count=7)).requests == 7
    assert sorted(counting.bodies.values()) == [3, 4]


def test_load_keeps_as_many_connections_open_as_it_was_told(load, counting) -> None:
    load.run(order(counting, [request(number) for number in range(60)], concurrency=3))
    assert len(counting.connections) == 3
    assert counting.most_at_once <= 3


def test_load_ends_when_the_time_is_over(load, counting) -> None:
    found = load.run(order(counting, [request(0)], seconds=0.05, count=10**6))
    assert 0 < found.requests < 10**6
    assert found.per_second == pytest.approx(found.requests / found.seconds)


def test_load_counts_answers_of_another_content(load, counting) -> None:
    requests = [request(number, expected=number // 2 * 2) for number in range(10)]
    found = load.run(order(counting, requests))
    assert found.wrong == 5
    assert "expected [0]" in found.complaint


def test_load_counts_answers_of_another_status(load, counting) -> None:
    found = load.run(order(counting, [request(0), request(0, path="/broken")]))
    assert (found.requests, found.wrong) == (2, 1)
    assert found.complaint.startswith("status 500")


def test_load_reads_bodies_in_chunks(load, counting) -> None:
    assert load.run(order(counting, [request(5, expected=5, path="/chunked")])).wrong == 0


def test_load_is_refused_when_nobody_listens(load) -> None:
    with pytest.raises(RuntimeError, match="cannot be reached"):
        load.run(Order(port=1, requests=[request(0)], concurrency=1, seconds=1.0))


def test_load_weighs_itself(load, counting) -> None:
    found = load.run(order(counting, [request(number) for number in range(20)]))
    assert found.own_ms_per_request > 0
    assert 0 < found.p50_ms <= found.p99_ms


@pytest.mark.parametrize("cut", [10, 40, -1])
def test_response_is_not_parsed_when_some_of_it_is_missing(cut) -> None:
    whole = bytearray(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
    assert parsed(whole) == (200, b"body")
    assert parsed(whole[:cut]) is None


def test_complaint_names_what_is_not_there() -> None:
    assert complaint((200, b"{}"), [(["a", 0], ["x"])]).startswith("nothing at ['a', 0]")
    assert complaint((200, b"<html>"), []).startswith("no JSON")
    assert complaint((200, b'{"a": ["x"]}'), [(["a", 0], ["x", "y"])]) == ""
