"""What clients of the Open Inference Protocol send, and what they see."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StrictInt, StrictStr

from app.models.schemas import AliasName
from app.open_inference.tensors import DATATYPES
from app.schemas import Body

#: More than any table has columns; each takes memory before it is known whether the model has it.
MAX_TENSORS = 10_000
MAX_RANK = 8

TensorName = Annotated[StrictStr, Field(min_length=1)]


class _Parameters(Body):
    """Those that are not known are left to other servers, and have no effect here."""

    model_config = ConfigDict(extra="allow")


class InferParameters(_Parameters):
    alias: AliasName | None = Field(None, description="The alias whose version answers; `latest` where none is named")
    binary_data_output: StrictBool = Field(False, description="Outputs are binary unless they say otherwise themselves")


class InputParameters(_Parameters):
    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Bytes that this tensor has after the JSON object"
    )


class OutputParameters(_Parameters):
    binary_data: StrictBool | None = None


class RequestInput(Body):
    """One tensor: the model's metadata names those it takes."""

    name: TensorName
    datatype: Literal[DATATYPES]  # type: ignore[valid-type]
    shape: Annotated[list[StrictInt], FailFast(), Field(max_length=MAX_RANK, description="[N] or [N, 1]")]
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="A flat or nested array; left out where the data is binary")


class RequestOutput(Body):
    name: TensorName
    parameters: OutputParameters = OutputParameters()


class InferRequest(Body):
    """`outputs` chooses and orders the tensors of the answer; without any all are answered."""

    id: StrictStr | None = Field(None, description="Stands in the answer again")
    model_name: StrictStr | None = Field(None, description="Where it is given, the one in the path")
    model_version: StrictStr | None = Field(None, description="Where it is given, the one in the path")
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[RequestInput], FailFast(), Field(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[list[RequestOutput], FailFast()] = Field([], max_length=100)


class ResponseOutput(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(None, description="`binary_data_size`, where the data is binary")
    data: list[Any] | None = Field(None, description="Flat; null stands for a number that is not finite")


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    """-1 in the shape is the number of inputs of a call."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class LiveRead(BaseModel):
    live: bool


class ReadyRead(BaseModel):
    ready: bool


class ModelReadyRead(BaseModel):
    name: str
    ready: bool


class IndexRequest(Body):
    ready: StrictBool = Field(False, description="Only what is ready, which everything is that is listed")


class IndexedModel(BaseModel):
    name: str
    version: str = Field(description="The newest")
    state: str
    reason: str
