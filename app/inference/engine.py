"""The inference engine: encoders, features and adapted models of one process. Safe for threads; knows no HTTP."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import structlog
import torch

from app.datasets.examples import Examples
from app.inference.answers import Prediction, predictions
from app.inference.encoders import Encoders
from app.inference.exporting import Exporter
from app.inference.features import FeatureCache, Matrix
from app.inference.items import BadItem, Row, parser_for
from app.inference.learners import LearnerCache
from app.inference.meter import Meter
from app.settings import Settings
from app.storage import Storage
from learning.base_learner import BaseLearner
from learning.encoders.columns import Kind, table_from_columns
from learning.encoders.registry import Encoder
from learning.errors import IncompatibleDomain, InvalidData, NonFiniteFeatures
from learning.grafts import Graft
from learning.types import Features, Inputs

log = structlog.get_logger(__name__)

BATCH_ROWS = 1024
#: Share of the progress of predicting a dataset that encoding it takes.
ENCODING_SHARE = 0.9
#: Receives (rows encoded, rows to encode).
EncodeProgress = Callable[[int, int], None]

T = TypeVar("T")


def _ignore(_done: int, _total: int) -> None: ...


class InferenceEngine:
    """Answers for any number of adapted models over one copy of each encoder."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.settings = settings
        self.features = FeatureCache(settings.cache_dir / "features", max_bytes=settings.feature_cache_bytes)
        self.learners = LearnerCache(storage, max_bytes=settings.learner_cache_bytes)
        self.encoders = Encoders(settings)
        self.exporter = Exporter(self.encoders, self.learners, patience=settings.upload_wait_seconds)
        self.meter = Meter()
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)

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
        """One prediction object per input, in order, or `{"error": {code, message, hint}}` where an input is bad.

        `inputs` are as sent by a client: strings, objects, and base64 or bytes for images.

        Raises:
            NotFound, Unavailable, ArtifactCorrupted: the model's artifact cannot be loaded.
            IncompatibleDomain: the model was fitted on an encoder that this installation does not have.
        """
        learner = self.learners.get(artifact)
        parse = parser_for(learner.modality, learner.columns, self.settings)
        parsed = [_attempt(parse, value) for value in inputs]
        good = [position for position, value in enumerate(parsed) if not isinstance(value, InvalidData)]

        def answer(positions: list[int]) -> list[Prediction]:
            batch = self._to_inputs_of(learner, [parsed[position] for position in positions])
            return predictions(learner, batch, top_k=top_k, explain=explain)

        answers: list[Prediction] = [_error(value) if isinstance(value, InvalidData) else {} for value in parsed]
        for position, prediction in zip(good, _isolating(answer, good), strict=True):
            answers[position] = prediction
        return answers

    def check_input(self, artifact: str, value: Any) -> Any:
        """One input made ready: a string, image bytes, or a row of the model's columns.

        Raises:
            InvalidData: the model could not answer it.
        """
        learner = self.learners.get(artifact)
        parsed = parser_for(learner.modality, learner.columns, self.settings)(value)
        if learner.modality == "tabular":
            _table([parsed], learner)
        return parsed

    def predict_examples(
        self, artifact: str, examples: Examples, *, top_k: int = 5, progress: EncodeProgress = _ignore
    ) -> list[Prediction]:
        """`predict` for every example of a dataset, whose features are kept in the cache."""
        learner = self.learners.get(artifact)
        if learner.modality != examples.modality:
            raise IncompatibleDomain(
                f"the model takes {learner.modality}, the dataset holds {examples.modality}",
                hint="choose a dataset of the model's modality",
            )
        if examples.modality != "tabular":
            self.encoders.check_revision(learner.encoder, learner.encoder_revision)

            def encoding(done: int, total: int) -> None:
                progress(round(ENCODING_SHARE * len(examples) * done / total), len(examples))

            self.to_inputs(examples, learner.encoder, encoding, grafts=[learner.graft])
        answers: list[Prediction] = []
        for batch in _batches(examples):
            answers += self.predict(artifact, batch, top_k=top_k)
            share = ENCODING_SHARE + (1 - ENCODING_SHARE) * len(answers) / len(examples)
            progress(round(share * len(examples)), len(examples))
        return answers

    def _to_inputs_of(self, learner: BaseLearner, values: list[Any]) -> Inputs:
        if learner.modality == "tabular":
            return _table(values, learner)
        self.encoders.check_revision(learner.encoder, learner.encoder_revision)
        encoder = self.encoders.grafted(learner.encoder, learner.graft)
        keys = [content_key(value) for value in values]
        matrix_NF = self._features(encoder, values, keys, _ignore, keep=False)
        return Features.only(matrix_NF, "" if learner.graft is None else learner.graft.digest)

    def _features(
        self,
        encoder: Encoder,
        values: Sequence[str] | Sequence[bytes],
        keys: Sequence[str],
        progress: EncodeProgress,
        *,
        keep: bool = True,
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
        matrix_NF = self.features.get_or_encode(space, keys, encode, progress, keep=keep)
        return torch.from_numpy(matrix_NF)


def content_key(value: str | bytes) -> str:
    """The key of an input in the feature cache, as datasets compute it."""
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()


def _attempt(parse: Callable[[Any], T], value: Any) -> T | BadItem:
    try:
        return parse(value)
    except BadItem as error:
        return error


def _error(error: InvalidData) -> Prediction:
    return {"error": {"code": error.code, "message": str(error), "hint": error.hint or None}}


def _isolating(answer: Callable[[list[int]], list[Prediction]], positions: list[int]) -> list[Prediction]:
    """The answers; where the batch fails on its data, each half alone, so that only the bad inputs fail."""
    if not positions:
        return []
    try:
        return answer(positions)
    except InvalidData as error:
        if len(positions) == 1:
            return [_error(error)]
    middle = len(positions) // 2
    return _isolating(answer, positions[:middle]) + _isolating(answer, positions[middle:])


def _table(rows: list[Row], learner: BaseLearner) -> Inputs:
    columns = {name: [row[name] for row in rows] for name in learner.columns}
    try:
        return table_from_columns(columns, cast("dict[str, Kind]", learner.columns))
    except InvalidData as error:
        if len(rows) > 1:
            raise
        # The row's number within its batch means nothing to the client, whose batch may have been split.
        raise BadItem(str(error).replace(", row 1:", ":"), code="not_a_number", hint=error.hint) from None


def _batches(examples: Examples) -> Iterator[list[Any]]:
    for start in range(0, len(examples), BATCH_ROWS):
        stop = start + BATCH_ROWS
        if isinstance(examples.inputs, dict):
            parts = {name: column[start:stop] for name, column in examples.inputs.items()}
            yield [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
        else:
            yield list(examples.inputs[start:stop])
