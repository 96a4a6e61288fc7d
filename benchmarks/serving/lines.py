"""A child process that is asked by a line of JSON and answers by one."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from benchmarks.processes import ROOT

STOP_SECONDS = 10.0


class Child:
    """A running child. Its first line, by which it says that it is ready, has been read."""

    def __init__(self, name: str, questions: IO[str], answers: IO[str]) -> None:
        self._name, self._questions, self._answers = name, questions, answers

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `RuntimeError` where the child has ended, or answers with an `error`."""
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next answer."""
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._name}: {answer['error']}")
        return answer


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A child in the checkout's folder; it ends with the block."""
    process = subprocess.Popen(  # noqa: S603 - our own modules
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child without pipes")
        try:
            made = Child(" ".join(command[-2:]), process.stdin, process.stdout)
            made.read()
            yield made
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
