"""Adapted models kept ready to answer, bounded in bytes.

What is asked for often stays (TinyLFU: Einziger, Friedman & Manes 2017, with exact counts that are halved now and then
instead of a sketch): a newcomer takes the place of the least recently used model only if it was asked for more often,
and of none that has only just come. So a thousand models asked for in turn do not push one another out; those that do
not get in are loaded again for each call.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from app.inference.served import ServedModel
from learning.threads import compute_alone

LOADERS = 2
#: Counts are halved after so many look-ups for each model kept.
_AGEING = 10
_FEWEST_LOOKUPS = 1_000
#: A model that has just come in stays so long.
RESIDENCY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Kept:
    model: ServedModel
    since: float


class ModelCache:
    """Served models by the sha256 of their artifact. Safe for threads; each artifact is loaded once at a time."""

    def __init__(
        self, load: Callable[[str], ServedModel], *, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hits = 0
        self.misses = 0
        self.bytes = 0
        self._load, self._max_bytes, self._clock = load, max_bytes, clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asked: dict[str, int] = {}
        self._lookups = 0
        self._loading: dict[str, Future[ServedModel]] = {}
        self._lock = threading.Lock()
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="load-model", initializer=compute_alone)

    def __len__(self) -> int:
        return len(self._kept)

    def peek(self, artifact: str) -> ServedModel | None:
        """The model if it is ready now; this counts as asking for it."""
        with self._lock:
            self._count(artifact)
            kept = self._kept.get(artifact)
            if kept is None:
                return None
            self.hits += 1
            self._kept.move_to_end(artifact)
            return kept.model

    def load(self, artifact: str) -> "Future[ServedModel]":
        """The model as soon as a loading thread has it; whoever asks meanwhile gets the same one.

        The future raises what loading raises: NotFound, ArtifactCorrupted, Unavailable.
        """
        with self._lock:
            if (kept := self._kept.get(artifact)) is not None:
                ready: Future[ServedModel] = Future()
                ready.set_result(kept.model)
                return ready
            if artifact not in self._loading:
                self.misses += 1
                self._loading[artifact] = self._loaders.submit(self._loaded, artifact)
            return self._loading[artifact]

    def get(self, artifact: str) -> ServedModel:
        """The model, waiting for it. Raises what `load` does."""
        return self.peek(artifact) or self.load(artifact).result()

    def close(self) -> None:
        self._loaders.shutdown(cancel_futures=True)

    def _loaded(self, artifact: str) -> ServedModel:
        try:
            model = self._load(artifact)
            with self._lock:
                self._offer(artifact, model)
            return model
        finally:
            with self._lock:
                self._loading.pop(artifact, None)

    def _count(self, artifact: str) -> None:
        self._asked[artifact] = self._asked.get(artifact, 0) + 1
        self._lookups += 1
        if self._lookups >= max(_FEWEST_LOOKUPS, _AGEING * len(self._kept)):
            self._lookups = 0
            self._asked = {name: count // 2 for name, count in self._asked.items() if count > 1}

    def _offer(self, artifact: str, model: ServedModel) -> None:
        """Keeps the model if there is room, or if it is asked for more than what would make room for it."""
        victims: list[str] = []
        room = self._max_bytes - self.bytes
        for name, kept in self._kept.items():
            if model.n_bytes <= room:
                break
            if not self._gives_way(name, kept, artifact):
                return
            victims.append(name)
            room += kept.model.n_bytes
        if model.n_bytes > room:
            return
        for name in victims:
            self.bytes -= self._kept.pop(name).model.n_bytes
        self._kept[artifact] = _Kept(model=model, since=self._clock())
        self.bytes += model.n_bytes

    def _gives_way(self, name: str, kept: _Kept, newcomer: str) -> bool:
        is_settled = self._clock() - kept.since >= RESIDENCY_SECONDS
        return is_settled and self._asked.get(newcomer, 0) > self._asked.get(name, 0)
