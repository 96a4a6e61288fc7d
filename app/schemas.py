"""Field types that every request shares: strings both databases can hold."""

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, StringConstraints


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
