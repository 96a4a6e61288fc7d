"""What a client sends about models, and what it sees of them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, StringConstraints

from app.schemas import Body

MAX_NUMBER = 2**31 - 1

VersionNumber = Annotated[int, Field(ge=1, le=MAX_NUMBER, strict=True)]
PathVersion = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
#: Begins with a letter, so that `name@3` and `name@champion` never mean the same.
AliasName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,99}$")]


class ModelRead(BaseModel):
    id: str
    name: str
    modality: str
    task: str
    latest_version: int | None
    aliases: dict[str, int]
    created_at: datetime


class ModelPage(BaseModel):
    items: list[ModelRead]
    next_page_token: str | None = None


class VersionRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    number: int
    job_id: str
    dataset: str
    strategy: str
    encoder: str
    report: dict[str, Any]
    lineage: dict[str, Any]
    artifact: str = Field(description="sha256 of the graft")
    size_bytes: int
    created_at: datetime


class VersionPage(BaseModel):
    items: list[VersionRead]
    next_page_token: str | None = None


class AliasPut(Body):
    version: VersionNumber


class AliasRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    alias: str
    version: int = Field(validation_alias="number")
    revision: int = Field(description="Counts every move; the ETag")
    updated_at: datetime
    warnings: list[dict[str, Any]] = Field(
        default=[], description="Of the version's report: what to know before others rely on it"
    )


class MoveRead(BaseModel):
    """One move of an alias; `version` is null where it was deleted."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    version: int | None = Field(validation_alias="number")
    previous: int | None
    reason: str
    created_at: datetime


class MovePage(BaseModel):
    items: list[MoveRead]
    next_page_token: str | None = None


class FeedbackCreate(Body):
    """`input` as in a predict call: a string, an object, or an image as base64 or data URL."""

    input: Any
    label: StrictStr | StrictInt | StrictFloat


class FeedbackRead(BaseModel):
    id: str
    model: str
    label: str
    created_at: datetime
