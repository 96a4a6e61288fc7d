"""Adapted models as files that answer without the service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Unavailable
from app.inference.encoders import Encoders
from app.inference.loading import stored_learner
from app.storage import Storage
from learning.onnx.bundle import bundle
from learning.onnx.encoder_graph import EncoderGraph, encoder_graph


class Exporter:
    """The graphs of one process's encoders, each traced on first use. `patience`: the longest wait, in seconds."""

    def __init__(self, encoders: Encoders, storage: Storage, *, patience: float) -> None:
        self._encoders, self._storage, self._patience = encoders, storage, patience
        self._graphs: dict[str, EncoderGraph] = {}
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Held while files are made: they take a few copies of an encoder's weights, which must not add up.

        Raises:
            Unavailable: others took too long.
        """
        if not self._turn.acquire(timeout=self._patience):
            raise Unavailable("Other models are being exported. Try again in a minute.", code="exports_busy")
        try:
            yield
        finally:
            self._turn.release()

    def files(self, artifact: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents; see `learning.onnx.bundle`. To be asked for within a turn.

        Raises:
            NotFound, Unavailable, ArtifactCorrupted: the model's artifact cannot be loaded.
            InvalidOptions, IncompatibleDomain: the installation lacks its encoder, or an ONNX file cannot hold it.
        """
        learner = stored_learner(self._storage, artifact)
        if learner.modality == "tabular":
            return bundle(learner, None)
        self._encoders.check_revision(learner.encoder, learner.encoder_revision)
        return bundle(learner, self._graph(learner.encoder))

    def _graph(self, name: str) -> EncoderGraph:
        if name not in self._graphs:
            encoder = self._encoders.get(name)
            with self._encoders.turn(name):
                self._graphs[name] = encoder_graph(encoder)
        return self._graphs[name]
