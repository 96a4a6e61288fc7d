"""A predict call and its answer, as JSON."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas import Body

TopK = Annotated[int, Field(ge=1, le=1000, strict=True, description="Classes listed in `probabilities`")]


class PredictRequest(Body):
    """`inputs`: strings for a text model, objects for a tabular one, base64 or data URLs for images."""

    inputs: Annotated[list[Any], Field(min_length=1)]
    top_k: TopK = 5
    explain: bool = Field(False, strict=True, description="Name the examples each answer rests on")


class PredictFields(Body):
    """What may stand beside the files of a multipart call."""

    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    explain: bool = False


class Evidence(BaseModel):
    """`example` is the row in the target dataset, from 0."""

    example: int
    label: str | float
    similarity: float


class ItemError(BaseModel):
    code: str
    message: str
    hint: str | None = None


class Prediction(BaseModel):
    """Classification has label to prediction_set, regression value and interval; a bad input has only `error`."""

    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: list[str] | None = None
    value: float | None = None
    interval: list[float | None] | None = Field(None, description="Both ends; null where the support is too small")
    ood_score: float | None = Field(None, description="Near 1: unlike anything the model has seen")
    abstain: bool | None = None
    evidence: list[Evidence] | None = None
    error: ItemError | None = None


class PredictResponse(BaseModel):
    model: str
    version: int
    predictions: list[Prediction]


class StrategyRead(BaseModel):
    name: str
    description: str
    options: dict[str, Any] = Field(description="JSON Schema")


class StrategyList(BaseModel):
    strategies: list[StrategyRead]
    meta_train: StrategyRead


class EncoderRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    modality: str
    width: int = Field(description="0 where it depends on the model named or on the table")
    description: str
    default: bool
    available: bool


class EncoderList(BaseModel):
    items: list[EncoderRead]
