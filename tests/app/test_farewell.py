"""An API that is asked to stop still answers over connections that are open, and has their clients close them."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from app.farewell import LingeringServer
from benchmarks.processes import until

PATIENCE_SECONDS = 60.0


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@dataclass
class Running:
    server: LingeringServer
    thread: threading.Thread
    url: str

    def ask_to_stop(self) -> None:
        self.server.should_exit = True
        assert until(lambda: not self.server.servers[0].is_serving(), PATIENCE_SECONDS)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server that lingers as long as the parameter says."""
    config = uvicorn.Config(answer, host="127.0.0.1", port=0, lifespan="off", log_config=None, timeout_keep_alive=600)
    server = LingeringServer(config, linger_seconds=request.param)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert until(lambda: server.started, PATIENCE_SECONDS)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Running(server, thread, f"http://127.0.0.1:{port}")
    server.should_exit = server.force_exit = True
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize("running", [PATIENCE_SECONDS], indirect=True)
def test_request_over_an_open_connection_is_answered_and_ends_it_when_the_api_stops(running: Running) -> None:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE_SECONDS) as http:
        assert "connection" not in http.get("/").headers
        running.ask_to_stop()
        last = http.get("/")
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        # Its last client has gone, so it does not wait for the rest of its time.
        running.thread.join(PATIENCE_SECONDS / 2)
        assert not running.thread.is_alive()


@pytest.mark.parametrize("running", [PATIENCE_SECONDS], indirect=True)
def test_new_connection_is_refused_when_the_api_stops(running: Running) -> None:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE_SECONDS) as open_one:
        open_one.get("/")
        running.ask_to_stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url, trust_env=False)


@pytest.mark.parametrize("running", [0.0], indirect=True)
def test_silent_client_does_not_hold_up_the_end(running: Running) -> None:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE_SECONDS) as silent:
        silent.get("/")
        running.ask_to_stop()
        running.thread.join(PATIENCE_SECONDS)
        assert not running.thread.is_alive()
