"""What learning and serving share in one process: encoders, features and adapted models. Safe for threads."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import structlog
import torch

from app.datasets.examples import Examples
from app.inference.answers import Prediction
from app.inference.bulk import check_modality, predict_encoded, predict_table
from app.inference.encoders import Encoders
from app.inference.exporting import Exporter
from app.inference.features import FeatureCache, Matrix
from app.inference.inputs import content_key
from app.inference.meter import Meter
from app.inference.serving import Question, Serving
from app.settings import Settings
from app.storage import Storage
from learning.encoders.columns import Kind, table_from_columns
from learning.encoders.registry import Encoder
from learning.errors import NonFiniteFeatures
from learning.grafts import Graft
from learning.mixing import unflattened
from learning.types import Features, Inputs

log = structlog.get_logger(__name__)

#: Receives (rows encoded, rows to encode).
EncodeProgress = Callable[[int, int], None]


def _ignore(_done: int, _total: int) -> None: ...


class InferenceEngine:
    """Encodes datasets for jobs, and answers through `serving`."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings = settings
        self.features = FeatureCache(settings.cache_dir / "features", max_bytes=settings.feature_cache_bytes)
        self.encoders = Encoders(settings)
        self.exporter = Exporter(self.encoders, storage, patience=settings.upload_wait_seconds)
        self.meter = Meter()
        self.serving = Serving(settings, storage, self.encoders, self.meter)
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)

    def close(self) -> None:
        """Ends the threads of serving."""
        self.serving.close()

    def warm_up(self) -> None:
        """Loads the default encoders in the background; a request that needs one meanwhile waits for it alone."""
        if self.settings.warm_up:
            threading.Thread(target=self.encoders.load_defaults, name="warm-up", daemon=True).start()

    def to_inputs(
        self,
        examples: Examples,
        encoder_name: str,
        progress: EncodeProgress = _ignore,
        *,
        grafts: Sequence[Graft | None] = (None,),
    ) -> Inputs:
        """The examples as the learning core takes them: a table, or features under each of `grafts`.

        The graft None is the rootstock.

        Raises:
            InvalidOptions: the encoder is unknown, not allowed or not of this modality.
        """
        self.encoders.check(encoder_name, examples.modality)
        if isinstance(examples.inputs, dict):
            return table_from_columns(examples.inputs, cast("dict[str, Kind]", examples.column_kinds))
        return self.encoded(encoder_name, examples.inputs, examples.keys, progress, grafts=grafts)

    def encoded(
        self,
        encoder_name: str,
        values: Sequence[str] | Sequence[bytes],
        keys: Sequence[str] | None = None,
        progress: EncodeProgress = _ignore,
        *,
        grafts: Sequence[Graft | None],
    ) -> Features:
        """Texts or images under each of `grafts`; `keys` are their content keys, where they are known."""
        keys = [content_key(value) for value in values] if keys is None else keys
        views: dict[str, torch.Tensor] = {}
        for place, graft in enumerate(grafts):

            def report(done: int, total: int, place: int = place) -> None:
                progress(place * total + done, len(grafts) * total)

            encoder = self.encoders.grafted(encoder_name, graft)
            matrix_NF = self._features(encoder, values, keys, report)
            views["" if graft is None else graft.digest] = matrix_NF
        first = next(iter(views.values()))
        return Features(matrix_NF=views.pop("", first), grafted=views)

    def predict(
        self, artifact: str, inputs: Sequence[Any], *, top_k: int = 5, explain: bool = False
    ) -> list[Prediction]:
        """See `Serving.answer`; the caller waits."""
        return self.serving.predict(artifact, Question(inputs=inputs, top_k=top_k, explain=explain))

    def predict_examples(
        self, artifact: str, examples: Examples, *, top_k: int = 5, progress: EncodeProgress = _ignore
    ) -> list[Prediction]:
        """A prediction, or a complaint, for every example of a dataset, whose features are kept on disk.

        Raises:
            NotFound, Unavailable, ArtifactCorrupted: the model's artifact cannot be loaded.
            IncompatibleDomain: the model was fitted on an encoder that this installation does not have, or takes
                another modality.
        """
        model = self.serving.models.get(artifact)
        learner = model.learner
        check_modality(learner, examples)
        if isinstance(examples.inputs, dict):
            return predict_table(learner, examples, progress, settings=self.settings, top_k=top_k)
        graft = None if model.graft is None else unflattened(model.graft, self.encoders.points(learner.encoder))

        def encode(values: Sequence[Any], keys: Sequence[str], report: EncodeProgress) -> Features:
            return self.encoded(learner.encoder, values, keys, report, grafts=[graft])

        return predict_encoded(learner, examples, encode, progress, settings=self.settings, top_k=top_k)

    def _features(
        self,
        encoder: Encoder,
        values: Sequence[str] | Sequence[bytes],
        keys: Sequence[str],
        progress: EncodeProgress,
    ) -> torch.Tensor:
        def encode(rows: list[int], report: Callable[[int], None]) -> Matrix:
            with self.encoders.turn(encoder.name):
                began = time.perf_counter()
                matrix: Matrix = encoder.encode([values[row] for row in rows], progress=report).numpy()
                self.meter.add(encoder.name, len(rows), time.perf_counter() - began)
            if not np.isfinite(matrix).all():  # never kept: what is in the cache is not looked at again
                raise NonFiniteFeatures(
                    f"the encoder {encoder.name} makes no finite numbers of an input", hint="leave that input out"
                )
            return matrix

        space = self.features.space(encoder.name, encoder.revision)
        matrix_NF = self.features.get_or_encode(space, keys, encode, progress)
        return torch.from_numpy(matrix_NF)
