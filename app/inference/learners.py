"""Adapted models that are loaded, bounded in bytes: the least recently used go first."""

import threading
from collections import OrderedDict

from app.errors import Unavailable
from app.storage import Storage
from learning.artifact import load_learner
from learning.base_learner import BaseLearner
from learning.errors import InvalidArtifact


class LearnerCache:
    """Base learners by the sha256 of their artifact. Safe for threads; one thread at a time loads an artifact."""

    def __init__(self, storage: Storage, *, max_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self._storage = storage
        self._max_bytes = max_bytes
        self._bytes = 0
        self._loaded: OrderedDict[str, tuple[BaseLearner, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}

    def get(self, artifact: str) -> BaseLearner:
        """The learner of `artifact`.

        Raises:
            NotFound: the storage does not have the blob.
            Unavailable: the blob is damaged, or of a format this version does not know.
        """
        if (learner := self._cached(artifact)) is not None:
            return learner
        with self._lock:
            turn = self._loading.setdefault(artifact, threading.Lock())
        with turn:
            if (learner := self._cached(artifact)) is not None:
                return learner
            try:
                data = self._storage.read(artifact)
                learner = _load(data)
                self._keep(artifact, learner, len(data))
            finally:
                with self._lock:
                    self._loading.pop(artifact, None)
        return learner

    def _cached(self, artifact: str) -> BaseLearner | None:
        with self._lock:
            if artifact not in self._loaded:
                return None
            self.hits += 1
            self._loaded.move_to_end(artifact)
            return self._loaded[artifact][0]

    def _keep(self, artifact: str, learner: BaseLearner, size: int) -> None:
        with self._lock:
            self.misses += 1
            self._loaded[artifact] = (learner, size)
            self._bytes += size
            while self._bytes > self._max_bytes and len(self._loaded) > 1:
                _, (_, freed) = self._loaded.popitem(last=False)
                self._bytes -= freed


def _load(data: bytes) -> BaseLearner:
    try:
        return load_learner(data)
    except InvalidArtifact as error:
        # The client asked rightly; it is the stored model that does not fit this installation.
        raise Unavailable(f"The stored model cannot be read: {error}", code="artifact_unreadable") from error
