"""Stored artifacts back into learners, with errors that tell a damaged store from a wrong request."""

from collections.abc import Callable
from typing import TypeVar

from app.errors import ArtifactCorrupted, Unavailable
from app.storage import Storage
from learning.artifact import load_learner, load_meta_learner
from learning.base_learner import BaseLearner
from learning.errors import InvalidArtifact
from learning.meta import MetaLearner

Loaded = TypeVar("Loaded", BaseLearner, MetaLearner)


def stored_learner(storage: Storage, artifact: str) -> BaseLearner:
    """The base learner of the blob `artifact`.

    Raises:
        NotFound: the storage does not have the blob.
        ArtifactCorrupted: the blob is damaged, no model, or of a format this version does not know.
        Unavailable: the storage is away.
    """
    return _loaded(load_learner, _read(storage, artifact))


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
