"""The HTTP server around the application."""

import uvicorn

from app.connections import room_for
from app.farewell import LingeringServer
from app.main import create_app
from app.protocol import limited_protocol
from app.settings import Settings


def make_server(settings: Settings) -> LingeringServer:
    """A server that has yet to run; its connections are limited as configured, or by the open files it may have."""
    application = create_app(settings)
    registry = application.state.connections
    registry.limit = room_for(settings.max_connections)
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        http=limited_protocol(settings, registry),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
    )
    return LingeringServer(config)
