"""What the dataset routes take and give."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from app.schemas import Body, Name, Storable

Modality = Literal["image", "text", "tabular"]
Task = Literal["classification", "regression"]
ColumnName = Annotated[Storable, Field(min_length=1, max_length=500)]


def _split(value: Any) -> Any:
    """Names given as a repeated field, separated by commas, or as one JSON list."""
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str):
        return value
    text = value[0].strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is no JSON list of column names") from None
    return [name.strip() for name in text.split(",")]


class UploadForm(Body):
    """The fields beside the file. What is left out is inferred (see app/datasets/infer.py)."""

    name: Name
    modality: Modality | None = None
    task: Task | None = None
    domain: Name | None = None
    """Where the examples come from; the name where it is left out."""
    label_column: ColumnName | None = None
    input_columns: Annotated[list[ColumnName], BeforeValidator(_split), Field(max_length=10_000)] | None = None


class DatasetWarning(BaseModel):
    code: str
    message: str


class DatasetRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    modality: Modality
    task: Task
    domain: str
    n_examples: int
    classes: dict[str, int]
    """Examples per class; empty for regression."""
    columns: dict[str, str]
    """Tabular only: column name to "numeric" or "categorical"."""
    content_hash: str
    size_bytes: int
    warnings: list[DatasetWarning]
    created_at: datetime

    @field_validator("classes", "columns")
    @classmethod
    def _by_name(cls, value: dict[str, Any]) -> dict[str, Any]:
        # One database keeps the order of keys and the other does not.
        return dict(sorted(value.items()))


class DatasetPage(BaseModel):
    items: Sequence[DatasetRead]
    next_page_token: str | None = None


class ImagePreview(BaseModel):
    entry: str
    thumbnail: str | None
    """PNG as a data URL; null where the image is so large that only .../examples/{row}/image shows it."""


class ExampleRead(BaseModel):
    row: int
    """Counts the examples of the upload from 1."""
    label: str | float
    input: str | dict[str, float | str | None] | ImagePreview


class ExamplePage(BaseModel):
    items: Sequence[ExampleRead]
    next_page_token: str | None = None
