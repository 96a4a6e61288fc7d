"""What a client sees of its project."""

from pydantic import BaseModel, Field


class Amount(BaseModel):
    """`limit` is null where there is none."""

    used: int
    limit: int | None


class UsageRead(BaseModel):
    project: str
    bytes: Amount = Field(description="Of datasets, versions of models and meta-learners")
    rows: Amount = Field(description="Of datasets and feedback")
    jobs: Amount = Field(description="Waiting or running")
    models: Amount = Field(description="That exist, or that unfinished jobs will make")
    requests_per_minute: int | None = Field(description="Of one key; null where there is no limit")
