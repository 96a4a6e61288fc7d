"""Labelled inputs that clients send back about a model, for its next adaptation. Nothing here commits."""

import base64
import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import ErrorItem, InvalidInput, NotFound, json_pointer
from app.ids import new_id
from app.inference.engine import InferenceEngine
from app.models import service
from app.models.schemas import FeedbackCreate
from app.schemas import storable
from app.tables import Feedback, Model, ModelVersion
from learning.errors import InvalidData

MAX_LABEL_CHARS = 200
#: Feedback lies in the database, so its images are kept small; the encoders look at a few hundred pixels anyway.
MAX_IMAGE_BYTES = 2 * 2**20


def _bad(pointer: str, code: str, message: str, hint: str | None = None) -> InvalidInput:
    return InvalidInput(message, code=code, errors=[ErrorItem(pointer=pointer, code=code, message=message, hint=hint)])


def label_text(task: str, label: str | int | float) -> str:
    """The label as it is stored: the name of a class, or a finite number.

    Raises:
        InvalidInput: it is neither.
    """
    if task == "regression":
        return repr(_finite(label))
    if isinstance(label, float):
        raise _bad("/label", "invalid_label", "A class is named by a text.", 'Send the class as a string: "3".')
    text = str(label).strip()
    if not text or len(text) > MAX_LABEL_CHARS:
        raise _bad("/label", "invalid_label", f"A class has a name of 1 to {MAX_LABEL_CHARS} characters.")
    return _stored(text, "/label")


def _finite(label: str | int | float) -> float:
    try:
        number = math.nan if isinstance(label, str) else float(label)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _bad("/label", "invalid_label", "This model predicts a number, so the label must be a finite number.")
    return number


def _stored(text: str, pointer: str) -> str:
    try:
        return storable(text)
    except ValueError as error:
        raise _bad(pointer, "invalid_text", f"The text {error}.") from None


def _input(engine: InferenceEngine, modality: str, artifact: str, value: Any) -> dict[str, Any]:
    """The input as the table `feedback` keeps it: {"text"}, {"columns"} or {"image"}."""
    try:
        parsed = engine.serving.check_input(artifact, value)
    except InvalidData as error:
        raise _bad("/input", error.code, f"The input is wrong: {error}.", error.hint or None) from None
    if modality == "text":
        return {"text": _stored(parsed, "/input")}
    if modality == "image":
        if len(parsed) > MAX_IMAGE_BYTES:
            raise _bad("/input", "image_too_large", f"Images of feedback have at most {MAX_IMAGE_BYTES:,} bytes.")
        return {"image": base64.b64encode(parsed).decode()}
    for name, cell in parsed.items():
        if isinstance(cell, str):
            _stored(cell, json_pointer(["input", name]))
    return {"columns": parsed}


def checked(engine: InferenceEngine, model: Model, version: ModelVersion, body: FeedbackCreate) -> Feedback:
    """The feedback, not yet in the database, checked against a version of the model.

    Raises:
        InvalidInput: the input or the label does not fit the model.
    """
    return Feedback(
        id=new_id("fb"),
        model_id=model.id,
        input=_input(engine, model.modality, version.artifact, body.input),
        label=label_text(model.task, body.label),
    )


def keep(session: Session, project_id: str, name: str, feedback: Feedback) -> None:
    """Stores checked feedback.

    Raises:
        NotFound: the model was deleted meanwhile.
    """
    if service.get(session, project_id, name, for_update=True).id != feedback.model_id:
        raise NotFound(f"The model '{name}' was deleted.")
    session.add(feedback)
    session.flush()


def collected(session: Session, project_id: str, name: str) -> Sequence[Feedback]:
    """All feedback on a model, oldest first; none where there is no such model."""
    mine = select(Feedback).join(Model, Model.id == Feedback.model_id)
    return list(session.scalars(mine.where(Model.project_id == project_id, Model.name == name).order_by(Feedback.id)))
