"""What every request shares: bodies of a bounded number of fields, and strings both databases can hold."""

from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from app.errors import ErrorItem, InvalidInput, items_from_validation

#: More than any body has. Each that is unknown would be an error of its own, with kilobytes of memory.
MAX_FIELDS = 100
_NAMED = 10


def storable(text: str) -> str:
    """`text` itself.

    Raises:
        ValueError: it holds a NUL, which PostgreSQL refuses, or a lone surrogate, which no encoding can carry.
    """
    if "\0" in text:
        raise ValueError("must not contain the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half of a surrogate pair") from None
    return text


Storable = Annotated[str, AfterValidator(storable)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)]
#: A name or id in the path of a request; what does not exist is answered 404 by the route.
PathName = Annotated[str, Path(max_length=200), AfterValidator(storable)]


class Body(BaseModel):
    """An object that a client sends. Unknown fields are refused by name, and too many of them by the first names."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _not_too_many(cls, sent: Any) -> Any:
        if not isinstance(sent, dict) or len(sent) <= MAX_FIELDS:
            return sent
        unknown = (repr(name[:60]) for name in sent if name not in cls.model_fields)
        told = {"sent": len(sent), "most": MAX_FIELDS, "names": ", ".join(islice(unknown, _NAMED))}
        message = "{sent} fields were sent, at most {most} are taken; the first that are not known: {names}"
        raise PydanticCustomError("too_many_fields", message, told)


BodyT = TypeVar("BodyT", bound=Body)


def parsed(kind: type[BodyT], body: bytes) -> BodyT:
    """The body of a request, which is JSON.

    Raises:
        InvalidInput: it is no JSON, or not what `kind` says.
    """
    # Pydantic's own reading of JSON would hold a large body in memory a second time.
    try:
        sent = from_json(body)
    except ValueError as error:
        message = f"Invalid JSON: {error}"
        item = ErrorItem(pointer="/body", code="json_invalid", message=message)
        raise InvalidInput(f"1 problem(s) with the request: {message}", errors=[item]) from None
    try:
        return kind.model_validate(sent)
    except ValidationError as error:
        raise invalid_body(error) from None


def invalid_body(error: ValidationError) -> InvalidInput:
    items = items_from_validation(error, "/body")
    return InvalidInput(f"{len(items)} problem(s) with the request: {items[0].message}", errors=items)
