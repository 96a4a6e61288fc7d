"""The feature cache on disk."""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app.inference.features import FeatureCache

SPACE = FeatureCache.space("minilm", "abc")


def keys(*texts: str) -> list[str]:
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def features(key: str) -> np.ndarray:
    """What the pretended encoder says about a key: four numbers that only depend on it."""
    return np.frombuffer(bytes.fromhex(key)[:16], dtype=np.uint32).astype(np.float32)


class Encoder:
    """Counts what it is asked for."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted
        self.encoded: list[str] = []

    def __call__(self, rows, report):
        self.encoded += [self.wanted[row] for row in rows]
        report(len(rows))
        return np.stack([features(self.wanted[row]) for row in rows])


def ask(cache: FeatureCache, wanted: list[str], space: str = SPACE) -> list[str]:
    """The keys that had to be encoded; the features are checked."""
    encoder = Encoder(wanted)
    matrix = cache.get_or_encode(space, wanted, encoder, lambda _done, _total: None)
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, np.stack([features(key) for key in wanted]))
    return encoder.encoded


@pytest.fixture
def root(tmp_path):
    return tmp_path / "features"


def new(root: Path, max_bytes: int = 2**30) -> FeatureCache:
    return FeatureCache(root, max_bytes=max_bytes)


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.features"))


def test_cache_encodes_only_what_is_missing(root):
    cache = new(root)
    assert ask(cache, keys("a", "b")) == keys("a", "b")
    assert ask(cache, keys("b", "c", "a")) == keys("c")
    assert (cache.hits, cache.misses) == (2, 3)


def test_cache_encodes_each_distinct_input_once(root):
    assert ask(new(root), keys("a", "b", "a", "a")) == keys("a", "b")


def test_cache_serves_another_process_and_a_later_one(root):
    running = new(root)
    ask(running, keys("a"))
    ask(new(root), keys("b"))
    assert ask(running, keys("a", "b")) == []
    assert ask(new(root), keys("a", "b")) == []


def test_cache_keeps_encoders_revisions_and_grafts_apart(root):
    cache = new(root)
    spaces = {FeatureCache.space(*parts) for parts in (("e", "1"), ("e", "2"), ("f", "1"), ("e", "1-g"))}
    assert len(spaces) == 4
    for space in spaces:
        assert ask(cache, keys("a"), space) == keys("a")


def test_cache_space_is_one_plain_folder_name():
    assert "/" not in FeatureCache.space("hf:../../etc", "r")


def test_cache_reports_progress_over_all_that_is_missing(root):
    reports: list[tuple[int, int]] = []
    wanted = keys("a", "b", "c")
    ask(new(root), wanted[:1])
    new(root).get_or_encode(SPACE, wanted, Encoder(wanted), lambda done, total: reports.append((done, total)))
    assert reports == [(2, 2)]


def test_cache_answers_an_empty_request(root):
    assert new(root).get_or_encode(SPACE, [], Encoder([]), lambda _done, _total: None).shape[0] == 0


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign"])
def test_cache_ignores_a_shard_that_is_not_whole(root, damage):
    ask(new(root), keys("a"))
    (shard,) = shards(root)
    shard.write_bytes({"torn": shard.read_bytes()[:-1], "empty": b"", "foreign": b"x" * 1000}[damage])
    assert ask(new(root), keys("a")) == keys("a")
    assert ask(new(root), keys("a")) == []


def test_cache_encodes_a_row_again_when_its_bytes_are_damaged(root):
    ask(new(root), keys("a", "b"))
    (shard,) = shards(root)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 0xFF
    shard.write_bytes(bytes(data))
    assert ask(new(root), keys("a", "b")) == keys("b")


def test_cache_encodes_again_when_a_shard_was_removed_meanwhile(root):
    cache = new(root)
    ask(cache, keys("a"))
    ask(cache, keys("a"))
    shards(root)[0].unlink()
    assert ask(cache, keys("a")) == keys("a")


def test_cache_drops_the_oldest_shards_beyond_its_limit(root):
    ask(new(root), keys("a"))
    size = shards(root)[0].stat().st_size
    os.utime(shards(root)[0], (1, 1))
    cache = new(root, max_bytes=size)
    ask(cache, keys("b"))
    assert len(shards(root)) == 1
    assert ask(cache, keys("b")) == []
    assert ask(cache, keys("a")) == keys("a")


def test_cache_joins_many_small_shards(root):
    texts = [str(i) for i in range(150)]
    cache = new(root)
    for text in texts:
        ask(cache, keys(text))
    assert len(shards(root)) < 100
    assert ask(cache, keys(*texts)) == []
    assert ask(new(root), keys(*texts)) == []


def test_cache_still_answers_when_the_disk_cannot_be_written(tmp_path):
    (tmp_path / "features").write_text("a file where the folder should be")
    assert ask(new(tmp_path / "features"), keys("a")) == keys("a")


def _work(root: Path, part: int) -> None:
    cache = new(root)
    for i in range(60):
        ask(cache, keys(str(i), f"{part}-{i}"))


def test_cache_is_sound_when_several_processes_write_at_once(root):
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_work, [root] * 3, range(3)))
    everything = [str(i) for i in range(60)] + [f"{part}-{i}" for part in range(3) for i in range(60)]
    assert ask(new(root), keys(*everything)) == []
