"""Predictions for whole datasets, whose features are kept in the cache on disk."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from app.datasets.examples import Examples
from app.inference.answers import Prediction, predictions
from app.inference.inputs import attempt, isolating, merged, table_of
from app.inference.items import Row, parser_for
from app.settings import Settings
from learning.base_learner import BaseLearner
from learning.errors import IncompatibleDomain, InvalidData
from learning.types import Features

BATCH_ROWS = 1024
#: Share of the progress that encoding takes.
ENCODING_SHARE = 0.9

#: Receives (rows done, rows in all).
RowProgress = Callable[[int, int], None]
#: Encodes inputs with these content keys.
Encode = Callable[[Sequence[Any], Sequence[str], RowProgress], Features]


def check_modality(learner: BaseLearner, examples: Examples) -> None:
    """Raises `IncompatibleDomain` where the learner takes something else."""
    if learner.modality != examples.modality:
        raise IncompatibleDomain(
            f"the model takes {learner.modality}, the dataset holds {examples.modality}",
            hint="choose a dataset of the model's modality",
        )


def predict_encoded(
    learner: BaseLearner, examples: Examples, encode: Encode, progress: RowProgress, *, settings: Settings, top_k: int
) -> list[Prediction]:
    """A prediction, or a complaint, for every text or image."""
    n_rows = len(examples)

    def encoding(done: int, total: int) -> None:
        progress(round(ENCODING_SHARE * n_rows * done / max(total, 1)), n_rows)

    parsed: list[Any] = list(examples.inputs)
    if examples.modality == "text":  # an image was decoded when it was uploaded
        parse = parser_for(learner.modality, learner.columns, settings)
        parsed = [attempt(parse, value) for value in parsed]
    good = [place for place, value in enumerate(parsed) if not isinstance(value, InvalidData)]
    features = encode([parsed[place] for place in good], [examples.keys[place] for place in good], encoding)
    answers: list[Prediction] = []
    for start in range(0, len(good), BATCH_ROWS):
        rows_N = torch.arange(start, min(start + BATCH_ROWS, len(good)))
        answers += predictions(learner, features.select(rows_N), top_k=top_k, explain=False)
        share = ENCODING_SHARE + (1 - ENCODING_SHARE) * len(answers) / len(good)
        progress(round(share * n_rows), n_rows)
    return merged(parsed, answers)


def predict_table(
    learner: BaseLearner, examples: Examples, progress: RowProgress, *, settings: Settings, top_k: int
) -> list[Prediction]:
    """A prediction, or a complaint, for every row of a table."""
    assert isinstance(examples.inputs, dict)  # noqa: S101 - tables hold columns
    parse = parser_for(learner.modality, learner.columns, settings)
    names, columns = list(examples.inputs), list(examples.inputs.values())

    def answered(rows: list[Row]) -> list[Prediction]:
        return predictions(learner, table_of(rows, learner), top_k=top_k, explain=False)

    answers: list[Prediction] = []
    for start in range(0, len(examples), BATCH_ROWS):
        rows = zip(*(column[start : start + BATCH_ROWS] for column in columns), strict=True)
        parsed = [attempt(parse, dict(zip(names, row, strict=True))) for row in rows]
        good = [value for value in parsed if not isinstance(value, InvalidData)]
        answers += merged(parsed, isolating(answered, good))
        progress(len(answers), len(examples))
    return answers
