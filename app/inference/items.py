"""One input of a predict call: what a client may send, checked and made ready for an encoder or a table."""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from app.datasets.images import FORMATS, BadImage, decoded
from app.settings import Settings
from learning.errors import InvalidData

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,")

#: Missing values are None.
Row = dict[str, float | str | None]


class BadItem(InvalidData):
    """One input cannot be answered; the others of its batch can."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


def parser_for(modality: str, columns: Mapping[str, str], settings: Settings) -> Callable[[Any], Any]:
    """The function that turns one raw input into bytes (image), a string (text) or a `Row` (tabular).

    It raises `BadItem` where the input is not of the modality or beyond a limit.
    """
    parsers: dict[str, Callable[[Any], Any]] = {
        "image": lambda value: image_bytes(value, settings),
        "text": lambda value: text(value, settings),
        "tabular": lambda value: row(value, columns),
    }
    return parsers[modality]


def image_bytes(value: Any, settings: Settings) -> bytes:
    """The encoded image in `value`: raw bytes, base64 or a data URL."""
    return read_image(value, settings)[0]


def read_image(value: Any, settings: Settings) -> tuple[bytes, Image.Image]:
    """The encoded image in `value`, and the same decoded, which costs as much as encoding a small one."""
    if isinstance(value, bytes):
        data = value
    elif isinstance(value, str):
        data = _from_base64(value, settings.max_image_bytes)
    else:
        raise BadItem(
            f"an image was expected, got {_kind(value)}", code="wrong_type", hint="send base64, a data URL or a file"
        )
    try:
        return data, decoded(data, settings)
    except BadImage as error:
        hint = f"send one of {', '.join(FORMATS)}, complete and within the limits"
        raise BadItem(f"the image {error.message}", code=error.code, hint=hint) from None


def _from_base64(value: str, limit: int) -> bytes:
    match = _DATA_URL.match(value[:200])
    encoded = value[match.end() if match else 0 :]
    if len(encoded) > limit * 1.5 + 100:  # line breaks included
        hint = "send a smaller image"
        raise BadItem(f"the image has more than {limit:,} bytes", code="image_too_large", hint=hint)
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        hint = "send the file's bytes as base64, or as a data URL: data:image/png;base64,…"
        raise BadItem("the image is not valid base64", code="invalid_base64", hint=hint) from None


def text(value: Any, settings: Settings) -> str:
    if not isinstance(value, str):
        raise BadItem(f"a text was expected, got {_kind(value)}", code="wrong_type", hint="send a JSON string")
    if len(value) > settings.max_text_chars:
        limit = f"{settings.max_text_chars:,}"
        raise BadItem(f"the text has {len(value):,} characters, at most {limit} are read", code="text_too_long")
    if not value.strip():
        raise BadItem("the text is empty", code="empty_text", hint="send at least one character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadItem("the text holds half of a surrogate pair", code="invalid_text", hint="send UTF-8") from None
    return value


def row(value: Any, columns: Mapping[str, str]) -> Row:
    """The values of the model's own columns; others are ignored, absent ones are missing."""
    if not isinstance(value, Mapping):
        hint = 'send a JSON object: {"column": value}'
        raise BadItem(f"a row was expected, got {_kind(value)}", code="wrong_type", hint=hint)
    if not any(name in value for name in columns):
        known = ", ".join(list(columns)[:10])
        raise BadItem("the row has none of the model's columns", code="unknown_columns", hint=f"columns: {known}")
    return {name: _cell(name, value.get(name)) for name in columns}


def _cell(name: str, value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float):
        raise BadItem(f"column '{name}': a number or a text was expected, got {_kind(value)}", code="wrong_type")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        hint = "send a finite number, or null where the value is missing"
        raise BadItem(f"column '{name}': the number is not finite", code="non_finite", hint=hint)
    return value


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "bytes")
