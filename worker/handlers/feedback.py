"""Labelled feedback on a model, as further examples of the target."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.datasets.canonical import PREFIX, input_keys
from app.datasets.examples import Examples, Inputs
from app.dependencies import Services
from app.jobs.lifecycle import Claim
from app.models.feedback import collected
from app.tables import Feedback

Cell = float | str | None


class _Unusable(Exception):
    """This feedback is of another shape than the target's examples."""


def with_feedback(services: Services, claim: Claim, examples: Examples) -> tuple[Examples, int]:
    """The examples followed by the model's feedback, oldest first, and how much of it there was.

    What does not fit the target, say a row without any of its columns, is left out.
    """
    with services.database.session(read_only=True) as session:
        rows = collected(session, claim.project_id, str(claim.spec["model"]))
    fitting = [row for row in (_row(feedback, examples) for feedback in rows) if row is not None]
    if not fitting:
        return examples, 0
    values, labels = [value for value, _ in fitting], [label for _, label in fitting]
    inputs: Any = examples.inputs
    merged: Inputs
    if isinstance(inputs, dict):
        merged = {name: [*column, *(value[name] for value in values)] for name, column in inputs.items()}
    else:
        merged = [*inputs, *values]
    return replace(
        examples,
        inputs=merged,
        labels=[*examples.labels, *labels],
        keys=[*examples.keys, *_keys(values, examples.column_kinds)],
    ), len(fitting)


def _row(feedback: Feedback, examples: Examples) -> tuple[Any, Any] | None:
    try:
        return _input(feedback.input, examples), _label(feedback.label, examples.task)
    except (_Unusable, ValueError):
        return None


def _input(stored: Mapping[str, Any], examples: Examples) -> Any:
    if examples.modality == "text" and "text" in stored:
        return str(stored["text"])
    if examples.modality == "image" and "image" in stored:
        return base64.b64decode(stored["image"])
    columns = stored.get("columns")
    if examples.modality != "tabular" or not isinstance(columns, Mapping):
        raise _Unusable
    if not set(columns) & set(examples.column_kinds):
        raise _Unusable
    return {name: _cell(columns.get(name), kind) for name, kind in examples.column_kinds.items()}


def _cell(value: Any, kind: str) -> Cell:
    if value is None:
        return None
    if kind != "numeric":
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _label(label: str, task: str) -> str | float:
    return float(label) if task == "regression" else label


def _keys(values: Sequence[Any], kinds: Mapping[str, str]) -> list[str]:
    if not kinds:
        return input_keys({"input": values}, kinds)
    return input_keys({PREFIX + name: [value[name] for value in values] for name in kinds}, kinds)
