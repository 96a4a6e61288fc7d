"""Orders for the load generator, and what comes back of them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving.intervals import percentile
from benchmarks.serving.lines import Child, child

#: A place in the JSON of an answer, and the values that may stand there.
Check = tuple[tuple[str | int, ...], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One POST of JSON text, and what its answer has to say."""

    path: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[Check] = ()


@dataclass(frozen=True, kw_only=True)
class Order:
    """Requests, sent in their order and from the start again, by `concurrency` connections that wait for each answer.

    The run ends after `seconds`, or after `count` requests. A connection rests for `pause_seconds` before each request.
    """

    port: int
    requests: Sequence[Request]
    concurrency: int
    seconds: float
    count: int = 100_000
    pause_seconds: float = 0.0
    host: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Load:
    """How a server bore one order. `wrong` answers had another status or content than was asked for."""

    requests: int
    wrong: int
    complaint: str
    seconds: float
    own_cpu_seconds: float
    """What the generator itself computed."""
    latencies_ms: Sequence[float]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def p50_ms(self) -> float:
        return percentile(self.latencies_ms, 50)

    @property
    def p99_ms(self) -> float:
        return percentile(self.latencies_ms, 99)

    @property
    def own_ms_per_request(self) -> float:
        return 1000 * self.own_cpu_seconds / self.requests


class Generator:
    """A running generator. It takes one order after another."""

    def __init__(self, process: Child) -> None:
        self._process = process

    def run(self, order: Order) -> Load:
        """Raises `RuntimeError` where the server could not be reached or answered nothing."""
        found = self._process.ask(asdict(order))
        if not found["requests"]:
            raise RuntimeError("the server answered nothing")
        return Load(**found)


@contextmanager
def generator() -> Iterator[Generator]:
    """A generator in a process of its own, which ends with the block."""
    with child([sys.executable, "-m", "benchmarks.serving.generator"]) as process:
        yield Generator(process)
