"""The server of `metagraft api` in a thread of this process: for what starts one often, or looks inside."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.connections import Connections
from app.server import make_server
from app.settings import Settings
from benchmarks.processes import START_SECONDS, STOP_SECONDS, until


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server: where it answers, its connections, and its application."""

    port: int
    connections: Connections
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(settings: Settings) -> Iterator[Served]:
    """A server on a port of its own, stopped when the block ends.

    Raises:
        RuntimeError: it did not start, or did not stop.
    """
    server = make_server(settings)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = int(listener.getsockname()[1])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
        thread.start()
        if not until(lambda: server.started or not thread.is_alive(), START_SECONDS) or not server.started:
            raise RuntimeError("the server did not start")
        app: Any = server.config.app
        try:
            yield Served(port=port, connections=app.state.connections, app=app)
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)
    if thread.is_alive():
        raise RuntimeError("the server did not stop")
