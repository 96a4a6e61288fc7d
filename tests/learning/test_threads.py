"""Threads with helpers, threads without, and rows dealt out to cores."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from learning.threads import _limit_mkl, _mkl_limit, compute_alone, computing_alone, each_on_a_core, shares


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As many as torch may use, on whatever machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _in_thread(*steps: Callable[[], int | None]) -> int | None:
    with ThreadPoolExecutor(1) as executor:
        return [executor.submit(step).result() for step in steps][-1]


@pytest.mark.usefixtures("two_threads")
def test_computing_alone_is_up_to_each_thread():
    assert _in_thread(torch.get_num_threads) == 2
    assert _in_thread(compute_alone, torch.get_num_threads) == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_thread_computes_as_before_when_it_has_computed_alone_for_a_while():
    def numbers() -> list[int]:
        before = torch.get_num_threads()
        with computing_alone():
            within = torch.get_num_threads()
        return [before, within, torch.get_num_threads()]

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(numbers).result() == [2, 1, 2]
    with ThreadPoolExecutor(1, initializer=compute_alone) as executor:
        assert executor.submit(numbers).result() == [1, 1, 1]


@pytest.mark.skipif(_mkl_limit() is None, reason="this torch has no MKL")
def test_mkl_stays_limited_when_a_thread_computes_alone_anyway():
    def left() -> int:
        with computing_alone():
            pass
        return _limit_mkl(0)

    with ThreadPoolExecutor(1, initializer=compute_alone) as executor:
        assert executor.submit(left).result() == 1


@pytest.mark.usefixtures("two_threads")
def test_computing_alone_lasts_while_others_change_their_number():
    ready, changed = threading.Event(), threading.Event()

    def work() -> int:
        compute_alone()
        ready.set()
        changed.wait(30)
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as executor:
        found = executor.submit(work)
        ready.wait(30)
        torch.set_num_threads(2)
        changed.set()
        assert found.result() == 1


@pytest.mark.usefixtures("two_threads")
def test_shares_are_about_equal_and_of_like_sizes():
    sizes = [3, 50, 4, 60, 5, 2, 48]
    small, large = shares(sizes, least=20)
    assert sorted([*small, *large]) == list(range(len(sizes)))
    assert max(sizes[row] for row in small) <= min(sizes[row] for row in large)
    assert abs(sum(sizes[row] for row in small) - sum(sizes[row] for row in large)) <= max(sizes)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("sizes", "least"), [([], 1), ([0, 0], 1), ([5, 5], 6), ([100], 60)])
def test_there_is_one_share_when_there_is_too_little_for_two(sizes: list[int], least: int):
    assert [row for share in shares(sizes, least=least) for row in share] == list(range(len(sizes)))
    assert len(shares(sizes, least=least)) <= 1


@pytest.mark.usefixtures("two_threads")
def test_there_is_one_share_when_the_thread_computes_alone():
    with ThreadPoolExecutor(1, initializer=compute_alone) as executor:
        assert executor.submit(shares, [9, 9], least=1).result() == [[0, 1]]


@pytest.mark.usefixtures("two_threads")
def test_each_work_runs_on_a_thread_without_helpers_in_order():
    both = threading.Barrier(2, timeout=30)  # each waits for the other: they run at once

    def work(name: str) -> tuple[str, int]:
        both.wait()
        return name, torch.get_num_threads()

    assert each_on_a_core([lambda: work("a"), lambda: work("b")]) == [("a", 1), ("b", 1)]


def test_what_a_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        each_on_a_core([lambda: 1.0, lambda: 1 / 0])


@pytest.mark.usefixtures("two_threads")
def test_cores_work_in_a_forked_process():
    each_on_a_core([int, int])
    child = os.fork()
    if child == 0:
        os._exit(each_on_a_core([lambda: 1, lambda: 2]) != [1, 2])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
