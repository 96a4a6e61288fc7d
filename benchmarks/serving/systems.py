"""A running server of whatever make: where it answers, whose process it is, and how it is asked."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.processes import ROOT, START_SECONDS, stop, until
from benchmarks.serving.load import Request

#: A text, base64 of an image file, or a row.
Input = str | Mapping[str, float]
#: The request that asks a model about one input, whose answer has to be one of the labels.
Ask = Callable[[str, Input, Sequence[str]], Request]


@dataclass(frozen=True, kw_only=True)
class System:
    name: str
    port: int
    pid: int
    ask: Ask


class CannotStart(Exception):
    """With the end of the server's log."""


@contextmanager
def server(
    command: Sequence[str], environment: Mapping[str, str], ready_url: str, log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """The first process of a server that has answered at `ready_url`; it is stopped with its family.

    Raises:
        CannotStart: it was not ready in time.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        began = until(lambda: process.poll() is not None or _answers(ready_url), START_SECONDS)
        if not began or process.poll() is not None:
            raise CannotStart(log.read_text(errors="replace").strip()[-500:] or "it ended without a word")
        yield process
    finally:
        stop(process)
        time.sleep(0.1)  # its sockets close


def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=10).is_success
    return False
