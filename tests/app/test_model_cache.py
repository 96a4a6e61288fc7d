"""Which models stay loaded."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import NotFound
from app.inference.model_cache import RESIDENCY_SECONDS, ModelCache
from app.inference.served import ServedModel, size_of
from learning.artifact import load_learner
from tests.app.adapted import table_outcome

LEARNER = load_learner(table_outcome().artifact)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self) -> None:
        """Until every model has been there for long enough."""
        self.now += 2 * RESIDENCY_SECONDS


class Shelf:
    """Models of 100 bytes each, and how often each was loaded."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.opened = threading.Event()
        self.opened.set()

    def load(self, artifact: str) -> ServedModel:
        self.loads[artifact] += 1
        self.opened.wait(90)
        if artifact == "none":
            raise NotFound("There is no such artifact.")
        return ServedModel(artifact=artifact, learner=LEARNER, graft=None, n_bytes=100)


def test_model_is_loaded_once_when_it_is_asked_for_again():
    shelf = Shelf()
    cache = ModelCache(shelf.load, max_bytes=1_000)
    assert cache.peek("a") is None
    first = cache.get("a")
    assert cache.get("a") is first is cache.peek("a")
    assert shelf.loads == {"a": 1}
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (2, 1, 100, 1)


def test_model_is_loaded_once_when_many_ask_at_once():
    shelf = Shelf()
    shelf.opened.clear()
    cache = ModelCache(shelf.load, max_bytes=1_000)
    with ThreadPoolExecutor(16) as threads:
        asking = [threads.submit(cache.get, "a") for _ in range(16)]
        shelf.opened.set()
        assert len({id(found.result()) for found in asking}) == 1
    assert shelf.loads == {"a": 1}


def test_failure_reaches_everybody_who_waits_and_is_not_remembered():
    shelf = Shelf()
    cache = ModelCache(shelf.load, max_bytes=1_000)
    for _ in range(2):
        with pytest.raises(NotFound):
            cache.get("none")
    assert shelf.loads == {"none": 2}


def test_bytes_stay_within_the_limit_whatever_is_asked_for():
    cache = ModelCache(Shelf().load, max_bytes=450)
    for i in range(50):
        cache.get(f"m{i % 7}")
        assert cache.bytes == 100 * len(cache) <= 450


def test_model_larger_than_the_limit_is_answered_and_not_kept():
    shelf = Shelf()
    cache = ModelCache(shelf.load, max_bytes=99)
    assert cache.get("a").artifact == "a"
    assert cache.get("a").artifact == "a"
    assert (len(cache), shelf.loads["a"]) == (0, 2)


def test_models_asked_for_in_turn_do_not_push_one_another_out():
    shelf, clock = Shelf(), Clock()
    cache = ModelCache(shelf.load, max_bytes=2_000, clock=clock)
    for _ in range(50):
        for i in range(21):
            cache.get(f"m{i}")
            clock.pass_by()
    # Least recently used first would have loaded every model every time.
    assert sum(shelf.loads.values()) < 150


def test_newcomer_takes_a_place_once_it_is_asked_for_more_often():
    shelf, clock = Shelf(), Clock()
    cache = ModelCache(shelf.load, max_bytes=200, clock=clock)
    for name in ("a", "b", "a", "b"):
        cache.get(name)
    clock.pass_by()
    for _ in range(5):
        cache.get("new")
    assert shelf.loads["new"] == 3
    assert cache.peek("new") is not None
    assert len(cache) == 2


def test_newcomer_waits_while_the_others_have_only_just_come():
    shelf, clock = Shelf(), Clock()
    cache = ModelCache(shelf.load, max_bytes=200, clock=clock)
    cache.get("a")
    cache.get("b")
    for _ in range(5):
        cache.get("new")
    assert cache.peek("new") is None
    clock.pass_by()
    cache.get("new")
    assert cache.peek("new") is not None


def test_what_was_popular_once_gives_way_when_nobody_asks_any_more():
    shelf, clock = Shelf(), Clock()
    cache = ModelCache(shelf.load, max_bytes=100, clock=clock)
    for _ in range(900):
        cache.get("old")
    clock.pass_by()
    for _ in range(900):
        cache.get("new")
    assert cache.peek("new") is not None
    assert cache.peek("old") is None


def test_size_of_a_learner_counts_its_tensors():
    head = LEARNER.pipeline.head
    tensors = [head.weight_TF, head.bias_T, LEARNER.familiarity.reference_NF]
    least = sum(tensor.nbytes for tensor in tensors)
    assert least < size_of(LEARNER) < least + 200_000
    assert size_of([head, head]) < 2 * size_of(head)
