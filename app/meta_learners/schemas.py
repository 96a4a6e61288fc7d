"""What a client sees of meta-learners."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class MetaLearnerRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    job_id: str
    modality: str
    task: str
    encoder: str
    sources: list[str]
    card: dict[str, Any]
    size_bytes: int
    created_at: datetime


class MetaLearnerPage(BaseModel):
    items: list[MetaLearnerRead]
    next_page_token: str | None = None
