"""What there is to predict and to adapt with: strategies and encoders."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import TypeAdapter

from app.inference.schemas import EncoderList, EncoderRead, StrategyList, StrategyRead
from app.security import Principal, require
from learning.config import STRATEGIES, MetaTrainOptions
from learning.encoders.registry import list_encoders

router = APIRouter(prefix="/v1", tags=["predict"])

AnyKey = Annotated[Principal, Depends(require(None))]


def _described(name: str, options: type[Any]) -> StrategyRead:
    schema = TypeAdapter(options).json_schema()
    return StrategyRead(name=name, description=(options.__doc__ or "").strip(), options=schema)


@router.get("/strategies")
def list_strategies(_caller: AnyKey) -> StrategyList:
    """What can be asked of an adaptation and of meta-training, with the JSON Schema of the options."""
    return StrategyList(
        strategies=[_described(name, options) for name, options in STRATEGIES.items()],
        meta_train=_described("meta_train", MetaTrainOptions),
    )


@router.get("/encoders")
def list_all_encoders(_caller: AnyKey) -> EncoderList:
    """The frozen encoders that adaptations build on."""
    return EncoderList(items=[EncoderRead.model_validate(info) for info in list_encoders()])
