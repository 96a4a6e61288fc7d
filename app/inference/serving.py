"""Answers for any number of adapted models over one copy of each encoder. Knows no HTTP.

Rows of all models on one encoder share its batches, each under the graft of its own model; the heads of a model are
then applied to all of its rows at once. Tables have no encoder and are answered where they arrive.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from app.inference.answers import Prediction, predictions
from app.inference.batching import Call, MicroBatcher, too_late
from app.inference.encoders import Encoders
from app.inference.inputs import attempt, content_key, error_of, isolating, merged, table_of
from app.inference.items import Row, parser_for, read_image, text
from app.inference.loading import stored_learner
from app.inference.meter import Meter
from app.inference.model_cache import ModelCache
from app.inference.recent import RecentFeatures
from app.inference.served import ServedModel, served_model
from app.settings import Settings
from app.storage import Storage
from learning.errors import InvalidData, NonFiniteFeatures
from learning.mixing import MixedEncoder
from learning.threads import compute_alone, computing_alone
from learning.types import Features

#: So many cells of a table, and so many characters of text, are dealt with at once: a thread would cost more.
_FEW_CELLS, _FEW_CHARACTERS = 300, 8_000
#: Most work of one batch in the encoder's unit (tokens, images), so that nobody waits long behind long texts.
_BATCH_SIZE = 2_048
#: Threads that decode images and long texts.
_READERS = 2


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a model: `inputs` as a client sent them, strings, objects, and base64 or bytes for images."""

    inputs: Sequence[Any]
    top_k: int = 5
    explain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRow:
    """One input on its way through an encoder: `ready` as the encoder takes it, `key` of its content."""

    model: ServedModel
    ready: Any
    key: str
    size: int
    question: Question


Batcher = MicroBatcher[EncodedRow, Prediction]


class Serving:
    """The predict path of one process. Safe for threads."""

    def __init__(self, settings: Settings, storage: Storage, encoders: Encoders, meter: Meter) -> None:
        self.settings = settings
        self.encoders = encoders
        self.meter = meter
        self.models = ModelCache(
            lambda artifact: served_model(artifact, stored_learner(storage, artifact), encoders),
            max_bytes=settings.learner_cache_bytes,
        )
        self.recent = RecentFeatures(max_bytes=settings.recent_features_bytes)
        self.batchers: dict[str, Batcher] = {}
        self._making = threading.Lock()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read-inputs", initializer=compute_alone)

    def close(self) -> None:
        """Ends the threads; calls that wait get an error."""
        for batcher in self.batchers.values():
            batcher.close()
        self.models.close()
        self._readers.shutdown(cancel_futures=True)

    def predict(self, artifact: str, question: Question) -> list[Prediction]:
        """`answer`, for callers that may block."""
        model = self.models.get(artifact)
        if model.learner.modality == "tabular":
            return self.answer_table(model, question)
        pending = self._pending(model, question)
        if pending.call is None:
            return pending.answers([])
        try:
            return pending.answers(pending.call.future.result(self.settings.deadline_seconds))
        except FutureTimeout:
            pending.call.future.cancel()
            raise too_late() from None

    async def answer(self, model: ServedModel | str, question: Question) -> list[Prediction]:
        """One prediction object per input, in order, or `{"error": {code, message, hint}}` where an input is bad.

        `model` may be its artifact's sha256, where it is yet to be loaded. Cancelling this drops what has not begun.

        Raises:
            NotFound, Unavailable, ArtifactCorrupted: the model's artifact cannot be loaded.
            IncompatibleDomain: the model was fitted on an encoder that this installation does not have.
            Overloaded: too many rows wait.
            DeadlineExceeded: there was no answer in time.
        """
        if isinstance(model, str):
            model = await self.loaded(model)
        work: Callable[..., Any] = self.answer_table if model.learner.modality == "tabular" else self._pending
        if _is_small(model, question.inputs):
            done = work(model, question)
        else:
            done = await asyncio.get_running_loop().run_in_executor(self._readers, work, model, question)
        return done if isinstance(done, list) else await self._awaited(done)

    async def loaded(self, artifact: str) -> ServedModel:
        """The model, once it is loaded. Raises what `answer` does of that."""
        # Shielded: a caller that leaves must not take the load away from others that wait for it.
        waiting: asyncio.Future[ServedModel] = asyncio.wrap_future(self.models.load(artifact))
        return await asyncio.shield(waiting)

    async def _awaited(self, pending: "_Pending") -> list[Prediction]:
        if pending.call is None:
            return pending.answers([])
        waiting: asyncio.Future[list[Prediction]] = asyncio.wrap_future(pending.call.future)
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                return pending.answers(await waiting)
        except TimeoutError:
            raise too_late() from None

    def check_input(self, artifact: str, value: Any) -> Any:
        """One input made ready: a string, image bytes, or a row of the model's columns.

        Raises:
            InvalidData: the model could not answer it.
        """
        learner = self.models.get(artifact).learner
        parsed = parser_for(learner.modality, learner.columns, self.settings)(value)
        if learner.modality == "tabular":
            table_of([parsed], learner)
        return parsed

    def answer_table(self, model: ServedModel, question: Question) -> list[Prediction]:
        """`answer` for a model of tables, on the spot."""
        learner = model.learner
        parse = parser_for(learner.modality, learner.columns, self.settings)
        parsed = [attempt(parse, value) for value in question.inputs]

        def answered(rows: list[Row]) -> list[Prediction]:
            with torch.inference_mode():
                table = table_of(rows, learner)
                return predictions(learner, table, top_k=question.top_k, explain=question.explain)

        good = isolating(answered, [value for value in parsed if not isinstance(value, InvalidData)])
        return merged(parsed, good)

    def _pending(self, model: ServedModel, question: Question) -> "_Pending":
        """Reads the inputs and submits the good ones."""
        learner = model.learner
        encoder = self.encoders.mixed(learner.encoder)

        def read(value: Any) -> EncodedRow:
            content, decoded = _read(learner.modality, value, self.settings)
            ready = encoder.ready([decoded])[0]
            return EncodedRow(
                model=model, ready=ready, key=content_key(content), size=encoder.size_of(ready), question=question
            )

        read_rows = [attempt(read, value) for value in question.inputs]
        rows = [row for row in read_rows if isinstance(row, EncodedRow)]
        call = None
        if rows:
            call = self._batcher(learner.encoder).submit(rows, seconds=self.settings.deadline_seconds)
        return _Pending(parsed=read_rows, call=call)

    def _batcher(self, encoder: str) -> Batcher:
        if encoder not in self.batchers:
            with self._making:
                if encoder not in self.batchers:
                    self.batchers[encoder] = MicroBatcher(
                        encoder, lambda rows: self._work(encoder, rows), batch_rows=self.settings.batch_size,
                        queue_limit=self.settings.queue_limit, size_of=lambda row: row.size, batch_size=_BATCH_SIZE,
                        begin=compute_alone if self.encoders.has_own_threads(encoder) else None,
                    )  # fmt: skip
        return self.batchers[encoder]

    def _work(self, name: str, rows: Sequence[EncodedRow]) -> list[Prediction | Exception]:
        """Encodes what is new, all of it in one batch, then applies each model's heads to its rows."""
        encoder = self.encoders.serving(name)
        features = self._features(encoder, rows)
        groups: defaultdict[tuple[str, int, bool], list[int]] = defaultdict(list)
        answers: list[Prediction | Exception] = [{} for _ in rows]
        for place, (row, row_F) in enumerate(zip(rows, features, strict=True)):
            if bool(torch.isfinite(row_F).all()):
                groups[row.model.artifact, row.question.top_k, row.question.explain].append(place)
            else:
                answers[place] = error_of(_not_finite(name))
        with computing_alone():
            for places in groups.values():
                found = _headed([rows[place] for place in places], torch.stack([features[place] for place in places]))
                for place, prediction in zip(places, found, strict=True):
                    answers[place] = prediction
        return answers

    def _features(self, encoder: MixedEncoder, rows: Sequence[EncodedRow]) -> list[Tensor]:
        space = f"{encoder.name} {encoder.revision}"
        keys = [(space, "" if row.model.graft is None else row.model.graft.digest, row.key) for row in rows]
        found = {key: self.recent.get(key) for key in set(keys)}
        missing = {key: row for key, row in zip(keys, rows, strict=True) if found[key] is None}
        if missing:
            new = self._encoded(encoder, list(missing.values()))
            for key, row_F in zip(missing, new, strict=True):
                found[key] = row_F
                if bool(torch.isfinite(row_F).all()):
                    self.recent.put(key, row_F.clone())
        return [cast("Tensor", found[key]) for key in keys]

    def _encoded(self, encoder: MixedEncoder, rows: Sequence[EncodedRow]) -> Tensor:
        with self.encoders.turn(encoder.name):
            began = time.perf_counter()
            encoded_NF = encoder.encode_mixed([row.ready for row in rows], [row.model.graft for row in rows])
            self.meter.add(encoder.name, len(rows), time.perf_counter() - began)
        return encoded_NF


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pending:
    """Inputs that were read: `parsed` has a complaint where one is bad, `call` the others, if there are any."""

    parsed: Sequence[Any]
    call: Call[EncodedRow, Prediction] | None

    def answers(self, good: Sequence[Prediction]) -> list[Prediction]:
        return merged(self.parsed, good)


def _read(modality: str, value: Any, settings: Settings) -> tuple[str | bytes, Any]:
    """What an input is known by, and what an encoder makes ready: a text twice; the bytes of an image, and it decoded.

    Raises:
        BadItem: it is not of the modality, or beyond a limit.
    """
    if modality == "image":
        return read_image(value, settings)
    content = text(value, settings)
    return content, content


def _headed(rows: Sequence[EncodedRow], matrix_NF: Tensor) -> list[Prediction]:
    first = rows[0]
    learner = first.model.learner
    inputs = Features.only(matrix_NF, learner.pipeline.featuriser.graft)
    with torch.inference_mode():
        return predictions(learner, inputs, top_k=first.question.top_k, explain=first.question.explain)


def _is_small(model: ServedModel, inputs: Sequence[Any]) -> bool:
    """Whether reading the inputs takes less than giving them to a thread."""
    if model.learner.modality == "text":
        return sum(len(value) for value in inputs if isinstance(value, str)) <= _FEW_CHARACTERS
    return model.learner.modality == "tabular" and len(inputs) * len(model.learner.columns) <= _FEW_CELLS


def is_immediate(model: ServedModel, question: Question) -> bool:
    """Whether the answer takes no waiting and hardly any time: a few cells for a model of tables."""
    return model.learner.modality == "tabular" and _is_small(model, question.inputs)


def _not_finite(encoder: str) -> NonFiniteFeatures:
    message = f"the encoder {encoder} makes no finite numbers of an input"
    return NonFiniteFeatures(message, hint="leave that input out")
