"""What a client sends to start a job, and what it sees of one."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.errors import ErrorItem, InvalidInput, Problem, items_from_validation
from app.schemas import MAX_FIELDS, Body, Name, storable
from learning.config import STRATEGIES, MetaTrainOptions

MAX_SOURCES = 100
#: No option nests as deeply, and what is nested a few hundred levels deep cannot be written as JSON again.
MAX_OPTION_DEPTH = 10


def _shallow(options: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [options]
    for _ in range(MAX_OPTION_DEPTH):
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    if level:
        raise ValueError(f"must not be nested more than {MAX_OPTION_DEPTH} levels deep")
    return options


Options = Annotated[dict[str, Any], Field(max_length=MAX_FIELDS), AfterValidator(_shallow)]

DatasetId = Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-f]{32}$")]
MetaLearnerId = Annotated[str, StringConstraints(pattern=r"^ml_[0-9a-f]{32}$")]
#: Stands in URLs and file names, so it is kept plain.
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
#: `name`, `name@3` or `name@champion`; a bare name is its alias `latest`.
ModelRef = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["meta_train", "adapt", "batch_predict"]


class MetaTrainCreate(Body):
    """Learn, over source datasets, how to transfer; the result is a meta-learner."""

    kind: Literal["meta_train"]
    name: Name
    sources: Annotated[list[DatasetId], Field(min_length=1, max_length=MAX_SOURCES)]
    options: Options = Field(default_factory=dict, description="See MetaTrainOptions in GET /v1/strategies")
    seed: Seed = 0


class AdaptCreate(Body):
    """Adapt to a target dataset; the result is the next version of `model`."""

    kind: Literal["adapt"]
    dataset: DatasetId
    model: ModelName
    strategy: Literal["auto", "target_only", "metric", "init"] = "auto"
    sources: Annotated[list[DatasetId], Field(max_length=MAX_SOURCES)] | None = None
    """Left out: the meta-learner's own, or none."""
    meta_learner: MetaLearnerId | None = None
    options: Options = Field(default_factory=dict, description="See the strategy in GET /v1/strategies")
    seed: Seed = 0


class BatchPredictCreate(Body):
    """Predict every row of a dataset; the result is a JSONL file."""

    kind: Literal["batch_predict"]
    model: ModelRef
    dataset: DatasetId


JobCreate = Annotated[MetaTrainCreate | AdaptCreate | BatchPredictCreate, Field(discriminator="kind")]


def _unstorable(value: Any, path: str) -> list[ErrorItem]:
    """An entry per string in `value` that no database can hold."""
    if isinstance(value, Mapping):
        return [item for key, inner in value.items() for item in _unstorable(inner, f"{path}/{key}")]
    if isinstance(value, list):
        return [item for index, inner in enumerate(value) for item in _unstorable(inner, f"{path}/{index}")]
    if not isinstance(value, str):
        return []
    try:
        storable(value)
    except ValueError as error:
        return [ErrorItem(pointer=path, code="value_error", message=str(error))]
    return []


def check_options(kind: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    """`options` with every default filled in.

    Raises:
        InvalidInput: an option is unknown or impossible; each error points at `/options/<field>`.
    """
    adapter = TypeAdapter(kind)
    try:
        checked: dict[str, Any] = adapter.dump_python(adapter.validate_python(options), mode="json")
    except ValidationError as error:
        items = items_from_validation(error, "/options")
        raise InvalidInput(f"{len(items)} problem(s) with the options: {items[0].message}", errors=items) from None
    if items := _unstorable(checked, "/options"):
        raise InvalidInput(f"An option {items[0].message}.", errors=items)
    return checked


def options_class(strategy: str | None) -> type[Any]:
    """The options of an adaptation's strategy, or of meta-training where it is None."""
    return MetaTrainOptions if strategy is None else STRATEGIES[strategy]


class JobRead(BaseModel):
    """A job as its owner sees it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: Kind
    state: State
    phase: str
    progress: float
    eta_seconds: float | None
    attempt: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: dict[str, Any] = Field(description="What was asked for, with every reference resolved to an id")
    retry_of: str | None = None
    result: dict[str, Any] | None
    error: Problem | None

    @model_validator(mode="before")
    @classmethod
    def _from_row(cls, row: Any) -> Any:
        if isinstance(row, Mapping):
            return row
        names = set(cls.model_fields) - {"request", "retry_of"}
        spec = dict(row.spec)
        return {name: getattr(row, name) for name in names} | {"retry_of": spec.pop("retry_of", None), "request": spec}


class JobPage(BaseModel):
    items: list[JobRead]
    next_page_token: str | None = None


class EventRead(BaseModel):
    """`id` counts from 1 without gaps within a job."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(validation_alias="seq", serialization_alias="id")
    type: str
    data: dict[str, Any]
    created_at: datetime
