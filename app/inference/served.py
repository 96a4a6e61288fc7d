"""An adapted model as it is served: without what only extending it needs, its graft one vector, its bytes counted."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from app.inference.encoders import Encoders
from learning.base_learner import BaseLearner
from learning.mixing import FlatGraft, flattened


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """`learner` has neither statistics nor graft; `graft` is what the encoder wears for it. `n_bytes` is for both."""

    artifact: str
    learner: BaseLearner
    graft: FlatGraft | None
    n_bytes: int


def served_model(artifact: str, learner: BaseLearner, encoders: Encoders) -> ServedModel:
    """The learner made ready to answer.

    Raises:
        IncompatibleDomain: it was fitted on an encoder that this installation does not have.
        InvalidOptions: that encoder is unknown or cannot be loaded.
    """
    graft = None
    if learner.modality != "tabular":
        encoder = encoders.mixed(learner.encoder)
        encoders.check_revision(learner.encoder, learner.encoder_revision)
        if learner.graft is not None:
            graft = flattened(learner.graft, encoders.points(learner.encoder), encoder.name)
    slim = replace(
        learner,
        statistics=None,
        graft=None,
        # As an artifact holds it: the reference is what takes most of a model's memory.
        familiarity=replace(learner.familiarity, reference_NF=learner.familiarity.reference_NF.half()),
    )
    return ServedModel(artifact=artifact, learner=slim, graft=graft, n_bytes=size_of([slim, graft]))


def size_of(value: Any) -> int:
    """Bytes that `value` and all it holds take in memory; tensors that share their numbers count once."""
    return _size_of(value, set())


def _size_of(value: Any, seen: set[int]) -> int:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        is_new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return sys.getsizeof(value) + (storage.nbytes() if is_new else 0)
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + sum(map(sys.getsizeof, value.flat) if value.dtype == object else ())
    held: Iterable[Any] = ()
    if is_dataclass(value):
        held = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, Mapping):
        held = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        held = value
    return sys.getsizeof(value) + sum(_size_of(part, seen) for part in held)
