"""Clients that hold connections and send nothing, or a byte a second, while a good client wants to be served."""

import asyncio
import contextlib
import resource
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from benchmarks import servers
from benchmarks.figures import Figure
from benchmarks.processes import running_api

#: Bytes after which a slow client of each kind would be done, were it let.
_HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 10_000
_BODY = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
FILES = 2_048


@dataclass(frozen=True, kw_only=True)
class Load:
    """`silent` and `slow` hostile sockets against `limit` connections; the good client asks for `seconds`."""

    silent: int
    slow: int
    limit: int
    requests: int
    seconds: float
    patience: float | None = None
    """Seconds for a head and for a body; None: the service's own."""

    @property
    def hostile(self) -> int:
        return self.silent + self.slow


LONG = Load(silent=200, slow=200, limit=300, requests=200, seconds=20.0)
SHORT = Load(silent=20, slow=20, limit=30, requests=40, seconds=4.0, patience=2.0)
END_SECONDS = 120.0


@dataclass
class Seen:
    """What the good client saw, and how many hostile sockets the service closed."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    connected: int = 0
    closed: int = 0


async def _hostile(host: str, port: int, seen: Seen, at_once: bytes, drip: bytes) -> None:
    """Sends `at_once` and then `drip`, a byte a second, until the service closes the connection."""
    reader, writer = await asyncio.open_connection(host, port)
    seen.connected += 1
    try:
        writer.write(at_once)
        reading = asyncio.create_task(_read(reader))
        for byte in drip:
            if (await asyncio.wait([reading], timeout=1.0))[0]:
                break
            with contextlib.suppress(OSError):
                writer.write(bytes([byte]))
        await reading
        seen.closed += 1
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> None:
    """Returns once the other side has closed."""
    with contextlib.suppress(OSError):
        while await reader.read(4_096):
            pass


async def _good(url: str, load: Load, seen: Seen) -> None:
    """One request after another, spread over the time; every second one on a connection of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=END_SECONDS, trust_env=False) as client:
        for number in range(load.requests):
            began = time.perf_counter()
            try:
                headers = {"Connection": "close"} if number % 2 else {}
                answer = await client.get("/v1/models", headers=headers)
                if answer.status_code != 200:
                    seen.failures.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                seen.failures.append(repr(error))
            took = time.perf_counter() - began
            seen.latencies.append(took)
            await asyncio.sleep(max(0.0, load.seconds / load.requests - took))


async def _all(url: str, load: Load) -> Seen:
    seen, parts = Seen(), urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 80)
    kinds = [(b"", b"")] * load.silent + [(b"", _HEAD), (_BODY, b"x" * 10_000)] * (load.slow // 2)
    hostile = [asyncio.create_task(_hostile(host, port, seen, *kind)) for kind in kinds]
    await asyncio.sleep(1.0)
    await _good(url, load, seen)
    _, left = await asyncio.wait(hostile, timeout=END_SECONDS)
    for task in left:
        task.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)
    return seen


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(kind: str, *, short: bool) -> list[Figure]:
    load = SHORT if short else LONG
    _allow_files()
    patience = {} if load.patience is None else {"head_seconds": load.patience, "body_seconds": load.patience}
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        settings = servers.quick_settings(folder, url, broker_url, max_connections=load.limit, **patience)
        with running_api(settings, folder) as api:
            seen = asyncio.run(_all(api.url, load))
    for failure in seen.failures[:10]:
        print(f"failure: {failure}")
    told = f"{load.silent} silent and {load.slow} slow sockets, {load.limit} connections at most, on {kind}"
    worst = max(seen.latencies)
    return [
        Figure(f"{told}: hostile sockets that connected", str(load.hostile), seen.connected,
               seen.connected == load.hostile),
        Figure(f"{told}: good requests of {load.requests} refused or failed", "0", len(seen.failures),
               not seen.failures),
        Figure(f"{told}: slowest good request, s", "below 1", round(worst, 3), worst < 1.0),
        Figure(f"{told}: hostile sockets the service closed", str(load.hostile), seen.closed,
               seen.closed == load.hostile),
    ]  # fmt: skip
