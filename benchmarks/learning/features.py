"""Encoded examples, kept on disk between runs: the same file format that the service keeps its features in."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from app.inference.features import FeatureCache, Matrix
from benchmarks.learning.data import Examples
from benchmarks.learning.results import Bench
from learning.encoders.registry import Encoder
from learning.types import Features, LabelledSet, labelled_set

MAX_BYTES = 4 * 2**30


def encode(bench: Bench, encoder: Encoder, inputs: Sequence[str] | Sequence[bytes]) -> Tensor:
    """(N, F) float32 of texts or encoded image files; only what this encoder has never seen is encoded."""
    keys = [hashlib.sha256(x.encode() if isinstance(x, str) else x).hexdigest() for x in inputs]
    cache = FeatureCache(bench.cache / "features", max_bytes=MAX_BYTES)
    space = FeatureCache.space(encoder.name, encoder.revision)

    def missing(positions: list[int], report: Callable[[int], None]) -> Matrix:
        rows_NF = encoder.encode([inputs[i] for i in positions], progress=report)
        matrix: Matrix = rows_NF.numpy()
        return matrix

    threads = torch.get_num_threads()
    torch.set_num_threads(bench.threads)
    try:
        return torch.from_numpy(cache.get_or_encode(space, keys, missing, lambda _done, _count: None))
    finally:
        torch.set_num_threads(threads)


def encoded(bench: Bench, encoder: Encoder, examples: Examples[str] | Examples[bytes]) -> LabelledSet:
    """The examples in the encoder's feature space."""
    features = Features(matrix_NF=encode(bench, encoder, examples.inputs))
    return labelled_set(features, list(examples.labels), "classification")
