"""Adapted models that are loaded, bounded in bytes: the least recently used go first."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from app.errors import ArtifactCorrupted, Unavailable
from app.storage import Storage
from learning.artifact import load_learner, load_meta_learner
from learning.base_learner import BaseLearner
from learning.errors import InvalidArtifact
from learning.meta import MetaLearner

Loaded = TypeVar("Loaded", BaseLearner, MetaLearner)


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
            ArtifactCorrupted: the blob is damaged, no model, or of a format this version does not know.
            Unavailable: the storage is away.
        """
        if (learner := self._cached(artifact)) is not None:
            return learner
        with self._lock:
            turn = self._loading.setdefault(artifact, threading.Lock())
        with turn:
            if (learner := self._cached(artifact)) is not None:
                return learner
            try:
                data = _read(self._storage, artifact)
                learner = _loaded(load_learner, data)
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


def meta_learner_of(data: bytes) -> MetaLearner:
    """Raises `ArtifactCorrupted` where the bytes are no meta-learner that this version knows."""
    return _loaded(load_meta_learner, data)


def _read(storage: Storage, artifact: str) -> bytes:
    try:
        return storage.read(artifact)
    except Unavailable as error:
        if error.code != "blob_damaged":
            raise
        raise ArtifactCorrupted(f"The stored model is damaged. {error.detail}") from error


def _loaded(load: Callable[[bytes], Loaded], data: bytes) -> Loaded:
    try:
        return load(data)
    except InvalidArtifact as error:
        # The client asked rightly; it is the stored model that does not fit this installation.
        hint = error.hint or "restore it from a backup, or adapt it again"
        raise ArtifactCorrupted(f"The stored model cannot be read: {error}; {hint}.") from error
