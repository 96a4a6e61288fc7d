"""The load generator: a closed loop over kept-open connections, in a process of its own.

    python -m benchmarks.serving.generator

It reads one order a line from its standard input and writes one result a line to its standard output (`load.py` has the
other side). Bodies are kept while the clock runs and checked after it has stopped, so that checking costs the server
nothing.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop

#: A server that takes longer for one answer has failed it.
PATIENCE_SECONDS = 60.0
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
#: Status and body; status 0 where the connection broke.
_Raw = tuple[int, bytes]


class _Connection(asyncio.Protocol):
    """One connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[_Raw] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport writes

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = parsed(self._received)
        if answer is not None and self._answer is not None and not self._answer.done():
            self._received.clear()
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, repr(exc or "the connection was closed").encode()))

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> "asyncio.Future[_Raw]":
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None:
            self._answer.set_result((0, b"the connection was closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def parsed(received: bytearray) -> _Raw | None:
    """Status and body of a whole HTTP/1.1 response; None while some of it is missing."""
    end = received.find(_END_OF_HEAD)
    if end < 0:
        return None
    head, start = bytes(received[:end]).lower(), end + len(_END_OF_HEAD)
    status = int(head[9:12])
    place = head.find(b"\r\ncontent-length:")
    if place >= 0:
        length = int(head[place + 17 :].partition(b"\r\n")[0])
        return (status, bytes(received[start : start + length])) if len(received) >= start + length else None
    if b"\r\ntransfer-encoding: chunked" in head:
        return (status, _joined(bytes(received[start:]))) if received.endswith(_LAST_CHUNK) else None
    return status, b""


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size, 16)
        body, chunks = body + rest[:length], rest[length + 2 :]
        if length == 0:
            break
    return body


class _Run:
    """One order as it is carried out: requests are taken in turn by whichever connection is free."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._host, self._port = str(order["host"]), int(order["port"])
        self._requests = [_bytes(request, self._host) for request in order["requests"]]
        self._seconds, self._count = float(order["seconds"]), int(order["count"])
        self._pause = float(order.get("pause_seconds", 0.0))
        self._taken = 0
        self.latencies: list[float] = []
        self.answers: list[tuple[int, _Raw]] = []

    async def carry_out(self, concurrency: int) -> float:
        """The seconds from the first request to the last answer."""
        connections = [await self._connect() for _ in range(concurrency)]
        began = time.perf_counter()
        await asyncio.gather(*(self._work(connection, began + self._seconds) for connection in connections))
        return time.perf_counter() - began

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection

    async def _work(self, connection: _Connection, until: float) -> None:
        while self._taken < self._count and time.perf_counter() < until:
            number = self._taken % len(self._requests)
            self._taken += 1
            if not connection.is_open:
                connection = await self._connect()
            if self._pause:
                await asyncio.sleep(self._pause)
            began = time.perf_counter()
            try:
                answer = await asyncio.wait_for(connection.send(self._requests[number]), PATIENCE_SECONDS)
            except TimeoutError:
                answer = (0, b"no answer in time")
                connection.close()
            self.latencies.append(1000 * (time.perf_counter() - began))
            self.answers.append((number, answer))
        connection.close()


def _bytes(request: dict[str, Any], host: str) -> bytes:
    body = str(request["body"]).encode()
    headers = {"Host": host, "Content-Type": "application/json", "Content-Length": len(body), **request["headers"]}
    lines = [f"{request.get('method', 'POST')} {request['path']} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + _END_OF_HEAD + body


def complaint(answer: _Raw, checks: Sequence[Sequence[Any]]) -> str:
    """What is wrong with an answer, "" where nothing is. A check: a path into the JSON, and the values allowed."""
    status, body = answer
    if status != 200:
        return f"status {status}: {body[:300].decode(errors='replace')}"
    try:
        found = json.loads(body)
    except ValueError:
        return f"no JSON: {body[:300]!r}"
    for path, allowed in checks:
        value = found
        try:
            for step in path:
                value = value[step]
        except (LookupError, TypeError):
            return f"nothing at {path}: {body[:300].decode(errors='replace')}"
        if value not in allowed:
            return f"{value!r} at {path}, expected {allowed}"
    return ""


async def _carried_out(order: dict[str, Any]) -> dict[str, Any]:
    run = _Run(order)
    gc.collect()
    gc.disable()  # a pause would be taken for the server's
    cpu = time.process_time()
    seconds = await run.carry_out(int(order["concurrency"]))
    cpu = time.process_time() - cpu
    gc.enable()
    found = [complaint(answer, order["requests"][number]["checks"]) for number, answer in run.answers]
    wrong = [text for text in found if text]
    return {
        "requests": len(found), "wrong": len(wrong), "complaint": wrong[0] if wrong else "",
        "seconds": seconds, "own_cpu_seconds": cpu, "latencies_ms": run.latencies,
    }  # fmt: skip


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            result = uvloop.run(_carried_out(json.loads(line)))
        except OSError as error:
            result = {"error": f"the server cannot be reached: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
