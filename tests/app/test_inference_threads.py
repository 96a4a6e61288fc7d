"""Only the thread that encodes with torch has helpers; see `app.inference.threads`."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from app.dependencies import Services
from app.inference.threads import compute_alone


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
def test_threads_of_serving_compute_alone_when_they_only_read_and_load(services: Services):
    serving = services.inference.serving
    assert serving._readers.submit(torch.get_num_threads).result() == 1
    assert serving.models._loaders.submit(torch.get_num_threads).result() == 1
