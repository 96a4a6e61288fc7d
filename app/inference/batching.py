"""Rows of many calls put into one batch: at once while the engine is idle, all that came meanwhile once it was busy.

There is no waiting for a batch to fill: a row that comes alone is worked on alone. Calls take turns, so that one of a
thousand rows does not make the others wait for all of them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Generic, TypeVar

import structlog

from app.errors import DeadlineExceeded, Overloaded

log = structlog.get_logger(__name__)

Row = TypeVar("Row")
Answer = TypeVar("Answer")

#: Share of a batch that one call may fill while others wait.
_TURN = 0.25
#: The weight of the latest batch in the running estimate of seconds per row.
_LATEST = 0.2


def too_late() -> DeadlineExceeded:
    """What a call ends with that had no answer in time."""
    return DeadlineExceeded("No answer within METAGRAFT_DEADLINE_SECONDS: the service is busy. Try again.")


class Call(Generic[Row, Answer]):
    """The rows of one caller. `future` gives their answers in order, or the error that ended the call.

    A caller that leaves cancels `future`: what has not begun then never does.
    """

    def __init__(self, rows: Sequence[Row], deadline: float) -> None:
        self.rows = rows
        self.deadline = deadline
        self.future: Future[list[Answer]] = Future()
        self.taken = 0
        self._answers: list[Answer | None] = [None] * len(rows)
        self._left = len(rows)

    @property
    def n_waiting(self) -> int:
        return len(self.rows) - self.taken

    def is_open(self, now: float) -> bool:
        """Whether somebody still waits; a call past its deadline is ended here."""
        if not self.future.done() and now > self.deadline:
            self.fail(too_late())
        return not self.future.done()

    def answer(self, place: int, answer: Answer | Exception) -> None:
        if isinstance(answer, Exception):
            self.fail(answer)
            return
        self._answers[place] = answer
        self._left -= 1
        if not self._left:
            self._settle(lambda: self.future.set_result(self._answers))  # type: ignore[arg-type]

    def fail(self, error: Exception) -> None:
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except InvalidStateError:
            return  # the caller has left


class MicroBatcher(Generic[Row, Answer]):
    """One thread that works on batches of rows, of whatever calls they are.

    `work` gets the rows of a batch and returns for each its answer, or the exception that ends its call. `size_of` says
    how much work a row is: a batch holds at most `batch_rows` rows and, unless it is one row, at most `batch_size`. The
    thread calls `begin` before all else.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Row]], Sequence[Answer | Exception]],
        *,
        batch_rows: int,
        queue_limit: int,
        size_of: Callable[[Row], int] = lambda _row: 1,
        batch_size: float = float("inf"),
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._work, self._size_of = work, size_of
        self._batch_rows, self._batch_size, self._queue_limit = batch_rows, batch_size, queue_limit
        self._calls: deque[Call[Row, Answer]] = deque()
        self._waiting = 0
        self._row_seconds = 0.0
        self._is_closed = False
        self._changed = threading.Condition()
        self.batches = 0
        self.rows = 0
        self._thread = threading.Thread(target=self._run, name=f"batches-{name}", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return self._waiting

    def submit(self, rows: Sequence[Row], *, seconds: float) -> Call[Row, Answer]:
        """The call of these rows, which has at most `seconds`.

        Raises:
            Overloaded: more rows wait already than may. A call alone is taken whatever its size.
        """
        call: Call[Row, Answer] = Call(rows, time.monotonic() + seconds)
        with self._changed:
            if self._waiting and self._waiting + len(rows) > self._queue_limit:
                raise self._overloaded()
            self._calls.append(call)
            self._waiting += len(rows)
            self._changed.notify()
        return call

    def close(self) -> None:
        """Ends the thread after its batch; calls that wait are failed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _overloaded(self) -> Overloaded:
        wait = max(1, round(self._waiting * self._row_seconds))
        return Overloaded(
            f"{self._waiting:,} inputs wait already; try again in {wait} s.", headers={"Retry-After": str(wait)}
        )

    def _run(self) -> None:
        if self._begin is not None:
            self._begin()
        while (batch := self._next()) is not None:
            if batch:
                self._answer(batch)
        for call in self._calls:
            call.fail(Overloaded("The service is stopping; try again.", headers={"Retry-After": "1"}))

    def _next(self) -> list[tuple[Call[Row, Answer], int]] | None:
        """The next rows, as (call, place in it); None at the end. Waits while there are none."""
        with self._changed:
            while not self._calls and not self._is_closed:
                self._changed.wait()
            return None if self._is_closed else self._taken()

    def _taken(self) -> list[tuple[Call[Row, Answer], int]]:
        batch: list[tuple[Call[Row, Answer], int]] = []
        size, now = 0.0, time.monotonic()
        turn = max(1, int(_TURN * self._batch_rows))
        while self._calls and len(batch) < self._batch_rows:
            call = self._calls[0]
            if not call.is_open(now):
                self._waiting -= self._calls.popleft().n_waiting
                continue
            stop = min(len(call.rows), call.taken + min(turn, self._batch_rows - len(batch)))
            while call.taken < stop:
                size += self._size_of(call.rows[call.taken])
                if batch and size > self._batch_size:
                    return batch
                batch.append((call, call.taken))
                call.taken += 1
                self._waiting -= 1
            self._calls.rotate(-1)
            if not call.n_waiting:
                self._calls.pop()
        return batch

    def _answer(self, batch: Sequence[tuple[Call[Row, Answer], int]]) -> None:
        began = time.perf_counter()
        answers = self._isolated([call.rows[place] for call, place in batch])
        seconds = (time.perf_counter() - began) / len(batch)
        self._row_seconds += _LATEST * (seconds - self._row_seconds)
        self.batches += 1
        self.rows += len(batch)
        for (call, place), answer in zip(batch, answers, strict=True):
            call.answer(place, answer)

    def _isolated(self, rows: Sequence[Row]) -> Sequence[Answer | Exception]:
        """The answers; where work on the batch fails, each half alone, so that only the row at fault fails."""
        try:
            return self._work(rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer of one row
            if len(rows) == 1:
                return [error]
            log.info("batch_halved", rows=len(rows), reason=type(error).__name__)
        middle = len(rows) // 2
        return [*self._isolated(rows[:middle]), *self._isolated(rows[middle:])]
