"""The inputs of a call, one by one: each is answered, or a complaint stands in its place."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from app.inference.answers import Prediction
from app.inference.items import BadItem, Row
from learning.base_learner import BaseLearner
from learning.encoders.columns import Kind, table_from_columns
from learning.errors import InvalidData
from learning.types import Inputs


def content_key(value: str | bytes) -> str:
    """The key of an input in caches of features, as datasets compute it."""
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()


def attempt(action: Callable[[Any], Any], value: Any) -> Any:
    """What `action` makes of `value`, or the complaint it raised."""
    try:
        return action(value)
    except InvalidData as error:
        return error


def error_of(error: InvalidData) -> Prediction:
    """A complaint in the place of a prediction."""
    return {"error": {"code": error.code, "message": str(error), "hint": error.hint or None}}


def isolating(answer: Callable[[list[Row]], list[Prediction]], rows: list[Row]) -> list[Prediction]:
    """The answers; where rows fail on their data, each half alone, so that only the bad ones have an error."""
    if not rows:
        return []
    try:
        return answer(rows)
    except InvalidData as error:
        if len(rows) == 1:
            return [error_of(error)]
    middle = len(rows) // 2
    return isolating(answer, rows[:middle]) + isolating(answer, rows[middle:])


def table_of(rows: list[Row], learner: BaseLearner) -> Inputs:
    """The rows as a table of the learner's columns. Raises `InvalidData` where a value is not of its column."""
    columns = {name: [row[name] for row in rows] for name in learner.columns}
    try:
        return table_from_columns(columns, cast("dict[str, Kind]", learner.columns))
    except InvalidData as error:
        if len(rows) > 1:
            raise
        # The row's number within its batch means nothing to the client, whose batch may have been split.
        raise BadItem(str(error).replace(", row 1:", ":"), code="not_a_number", hint=error.hint) from None


def merged(parsed: Sequence[Any], good: Sequence[Prediction]) -> list[Prediction]:
    """The answers of the good inputs, and a complaint in the place of each bad one."""
    answers = iter(good)
    return [error_of(value) if isinstance(value, InvalidData) else next(answers) for value in parsed]
