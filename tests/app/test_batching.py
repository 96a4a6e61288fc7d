"""Rows of many calls in one batch."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import DeadlineExceeded, Overloaded
from app.inference.batching import Call, MicroBatcher

SECONDS = 90.0


class Gate:
    """Work that doubles numbers, one batch at a time as it is let through, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._is_open = False

    def __call__(self, rows: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(rows))
        self.entered.release()
        if not self._is_open:
            assert self._passes.acquire(timeout=SECONDS)
        if any(row < 0 for row in rows):
            raise ValueError("a negative number")
        return [ArithmeticError("odd") if row == 13 else 2 * row for row in rows]

    def open(self) -> None:
        self._is_open = True
        self._passes.release(1_000)

    def pass_one(self) -> None:
        self._passes.release()


Batcher = MicroBatcher[int, int]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def make(gate: Gate) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def batcher(**limits: object) -> Batcher:
        made.append(MicroBatcher("test", gate, **{"batch_rows": 8, "queue_limit": 100, **limits}))  # type: ignore[arg-type]
        return made[-1]

    yield batcher
    gate.open()
    for batcher_made in made:
        batcher_made.close()


def result(call: Call[int, int]) -> list[int]:
    return call.future.result(SECONDS)


def busy(batcher: Batcher, gate: Gate) -> Call[int, int]:
    """A call that is being worked on until the gate lets it through."""
    call = batcher.submit([0], seconds=SECONDS)
    assert gate.entered.acquire(timeout=SECONDS)
    return call


def test_row_is_worked_on_at_once_when_nothing_else_is(make, gate):
    batcher = make()
    call = busy(batcher, gate)
    assert gate.batches == [[0]]
    gate.open()
    assert result(call) == [0]


def test_rows_that_come_while_busy_share_the_next_batch(make, gate):
    batcher = make()
    busy(batcher, gate)
    calls = [batcher.submit([i, i + 100], seconds=SECONDS) for i in range(1, 4)]
    gate.open()
    assert [result(call) for call in calls] == [[2, 202], [4, 204], [6, 206]]
    assert gate.batches[1] == [1, 101, 2, 102, 3, 103]


def test_batch_has_no_more_rows_than_it_may(make, gate):
    batcher = make(batch_rows=3)
    busy(batcher, gate)
    call = batcher.submit(range(1, 11), seconds=SECONDS)
    gate.open()
    assert result(call) == [2 * i for i in range(1, 11)]
    assert [len(batch) for batch in gate.batches] == [1, 3, 3, 3, 1]


def test_batch_has_no_more_work_than_it_may_but_for_a_row_that_is_more_by_itself(make, gate):
    batcher = make(size_of=lambda row: row, batch_size=10)
    busy(batcher, gate)
    call = batcher.submit([4, 5, 6, 50, 1, 2], seconds=SECONDS)
    gate.open()
    assert result(call) == [8, 10, 12, 100, 2, 4]
    assert gate.batches[1:] == [[4, 5], [6], [50], [1, 2]]


def test_small_call_does_not_wait_for_all_of_a_large_one(make, gate):
    batcher = make(batch_rows=8)
    busy(batcher, gate)
    large = batcher.submit(range(100, 150), seconds=SECONDS)
    small = batcher.submit([1, 2], seconds=SECONDS)
    gate.pass_one()  # the row that kept it busy
    assert gate.entered.acquire(timeout=SECONDS)
    gate.pass_one()
    assert result(small) == [2, 4]
    assert not large.future.done()
    gate.open()
    assert result(large) == [2 * i for i in range(100, 150)]


def test_full_queue_refuses_and_says_when_to_come_again(make, gate):
    batcher = make(queue_limit=5)
    busy(batcher, gate)
    waiting = batcher.submit(range(4), seconds=SECONDS)
    with pytest.raises(Overloaded) as refused:
        batcher.submit([1, 2], seconds=SECONDS)
    assert int(refused.value.headers["Retry-After"]) >= 1
    fits = batcher.submit([7], seconds=SECONDS)
    gate.open()
    assert (result(waiting), result(fits)) == ([0, 2, 4, 6], [14])


def test_call_larger_than_the_queue_is_taken_when_nothing_waits(make, gate):
    batcher = make(queue_limit=5)
    gate.open()
    assert result(batcher.submit(range(100, 150), seconds=SECONDS)) == [2 * i for i in range(100, 150)]


def test_call_past_its_deadline_is_ended_before_any_work(make, gate):
    batcher = make()
    busy(batcher, gate)
    late = batcher.submit([1], seconds=0.01)
    time.sleep(0.05)
    gate.open()
    with pytest.raises(DeadlineExceeded):
        result(late)
    assert result(batcher.submit([2], seconds=SECONDS)) == [4]
    assert [1] not in gate.batches
    assert batcher.n_waiting == 0


def test_caller_that_left_is_dropped_before_any_work(make, gate):
    batcher = make()
    busy(batcher, gate)
    left, stayed = batcher.submit([1, 3], seconds=SECONDS), batcher.submit([2], seconds=SECONDS)
    assert left.future.cancel()
    gate.open()
    assert result(stayed) == [4]
    assert gate.batches[1:] == [[2]]
    assert batcher.n_waiting == 0


def test_caller_that_leaves_during_the_work_disturbs_nobody(make, gate):
    batcher = make()
    left = busy(batcher, gate)
    assert left.future.cancel()
    stayed = batcher.submit([2], seconds=SECONDS)
    gate.open()
    assert result(stayed) == [4]


def test_only_the_call_of_a_row_that_fails_is_failed(make, gate):
    batcher = make()
    busy(batcher, gate)
    calls = [batcher.submit([i], seconds=SECONDS) for i in (1, -1, 2, 13, 3)]
    gate.open()
    assert [result(calls[i]) for i in (0, 2, 4)] == [[2], [4], [6]]
    with pytest.raises(ValueError, match="negative"):
        result(calls[1])
    with pytest.raises(ArithmeticError, match="odd"):
        result(calls[3])


def test_calls_that_wait_are_failed_when_the_batcher_is_closed(make, gate):
    batcher = make()
    working = busy(batcher, gate)
    waiting = batcher.submit([1], seconds=SECONDS)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.pass_one()
    closing.join(SECONDS)
    assert result(working) == [0]
    with pytest.raises(Overloaded, match="stopping"):
        result(waiting)


def test_every_call_gets_its_own_answers_when_many_threads_submit(make, gate):
    gate.open()
    batcher = make(batch_rows=7, queue_limit=100_000)

    def ask(start: int) -> bool:
        rows = range(1_000 * start, 1_000 * start + start % 11 + 1)
        return result(batcher.submit(rows, seconds=SECONDS)) == [2 * row for row in rows]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(1, 1_000)))
    assert batcher.rows == sum(start % 11 + 1 for start in range(1, 1_000))
