"""What the routes of keys take and give."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from app.db import utc_now
from app.schemas import Body, Name
from app.security import Scope


class KeyCreate(Body):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)]
    expires_at: AwareDatetime | None = None

    @field_validator("expires_at")
    @classmethod
    def _in_the_future(cls, value: datetime | None) -> datetime | None:
        # The last year is left out, because a time zone could push it beyond what a datetime can hold.
        if value is not None and (value.year >= 9999 or value <= utc_now()):
            raise ValueError("must lie in the future, before the year 9999")
        return value


class KeyRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyRead):
    key: str | None
    """Shown this once; null where a repeated Idempotency-Key asks again."""


class KeyPage(BaseModel):
    items: Sequence[KeyRead]
    next_page_token: str | None = None
