"""An API that says goodbye: once asked to stop it goes on for a moment, and tells every client to close its connection.

Uvicorn closes idle connections at once. A request that is already on its way over one of them would get no answer,
and its client could not know whether it was carried out.
"""

import asyncio
import socket
import time

import uvicorn

LINGER_SECONDS = 2.0
_TICK_SECONDS = 0.1


class LingeringServer(uvicorn.Server):
    """Stops listening, lingers until every connection is closed or `linger_seconds` are over, then shuts down."""

    def __init__(self, config: uvicorn.Config, linger_seconds: float = LINGER_SECONDS) -> None:
        super().__init__(config)
        self._linger_seconds = linger_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # In place: the connections hold this very list.
        self.server_state.default_headers.append((b"connection", b"close"))
        deadline = time.monotonic() + self._linger_seconds
        await asyncio.sleep(_TICK_SECONDS)  # for what was accepted a moment ago
        # Uvicorn tells nobody when the last connection closes.
        while self.server_state.connections and time.monotonic() < deadline and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(_TICK_SECONDS)
        await super().shutdown(sockets)
