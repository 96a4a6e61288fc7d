"""Tensors as the Open Inference Protocol writes them: JSON, or binary in little-endian and row-major order.

Either way a tensor is read into a flat list of Python values: float (NaN where missing), int, bool, and for BYTES the
`str` of JSON or the `bytes` of binary data.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Of every datatype but BYTES, whose elements have no common size.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
        "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    }.items()
}  # fmt: skip
DATATYPES = (*DTYPES, "BYTES")
MAX_DIMENSION = 2**63 - 1

_LENGTH = struct.Struct("<I")


class BadTensor(ValueError):
    """What is wrong with one tensor; `position` is that of the element at fault, from 0."""

    def __init__(self, message: str, *, code: str, position: int | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.position = position
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """`values` are flat, in row-major order: as many as `shape` says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any]


def count(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has.

    Raises:
        BadTensor: a dimension is negative or beyond 64 bits.
    """
    for dimension in shape:
        if not 0 <= dimension <= MAX_DIMENSION:
            hint = "send the number of elements along each dimension"
            raise BadTensor(f"a dimension of the shape is {dimension}", code="invalid_shape", hint=hint)
    return math.prod(shape)


def from_json(datatype: str, shape: Sequence[int], data: Any) -> list[Any]:
    """The values in `data`, which is flat or nested as `shape` says.

    Numbers are rounded to the datatype, as a client that sends them in binary has done already; null is NaN.

    Raises:
        BadTensor: they do not fit the shape or the datatype.
    """
    expected, flat = count(shape), _flattened(data, shape)
    _check_count(shape, expected, len(flat))
    if datatype == "BYTES":
        return _checked(flat, lambda value: isinstance(value, str), "a string was expected")
    if datatype == "BOOL":
        return _checked(flat, lambda value: isinstance(value, bool), "true or false was expected")
    dtype = DTYPES[datatype]
    if dtype.kind != "f":
        return _integers(flat, datatype, dtype)
    is_number = "a number was expected, or null where it is missing"
    numbers = _checked(flat, lambda value: value is None or type(value) in {int, float}, is_number)
    with np.errstate(over="ignore"):
        rounded = np.array([_float(value) for value in numbers], dtype=np.float64).astype(dtype)
    return list(rounded.tolist())


def from_binary(datatype: str, shape: Sequence[int], data: memoryview) -> list[Any]:
    """The values in `data`.

    Raises:
        BadTensor: it has not exactly the bytes that the shape and the datatype ask for.
    """
    expected = count(shape)
    if datatype == "BYTES":
        return _split(data, expected)
    dtype = DTYPES[datatype]
    if len(data) != expected * dtype.itemsize:
        message = f"{expected} elements of {datatype} are {expected * dtype.itemsize} bytes, but {len(data)} were sent"
        raise BadTensor(message, code="size_mismatch", hint="send little-endian elements without padding")
    if datatype == "BOOL":
        (wrong,) = np.nonzero(np.frombuffer(data, np.uint8) > 1)
        if len(wrong):
            raise BadTensor("a byte of 0 or 1 was expected", code="wrong_type", position=int(wrong[0]))
    return list(np.frombuffer(data, dtype).tolist())


def to_json(tensor: Tensor) -> list[Any]:
    """The values for a JSON writer: what is not finite, which JSON cannot say, is null."""
    if tensor.datatype.startswith("FP"):
        return [value if math.isfinite(value) else None for value in tensor.values]
    return tensor.values


def to_binary(tensor: Tensor) -> bytes:
    if tensor.datatype != "BYTES":
        return np.array(tensor.values, dtype=DTYPES[tensor.datatype]).tobytes()
    elements = [value.encode() if isinstance(value, str) else value for value in tensor.values]
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def _flattened(data: Any, shape: Sequence[int]) -> list[Any]:
    level = data
    if not isinstance(level, list):
        raise BadTensor("data must be a list", code="wrong_type", hint="send the elements as a JSON array")
    for length in shape[1:]:
        if not any(isinstance(row, list) for row in level):
            break
        for row in level:
            if not isinstance(row, list) or len(row) != length:
                hint = "send a flat array, or one nested as the shape says"
                raise BadTensor("data is nested otherwise than its shape says", code="shape_mismatch", hint=hint)
        level = [value for row in level for value in row]
    return level


def _check_count(shape: Sequence[int], expected: int, sent: int) -> None:
    if sent != expected:
        message = f"a tensor of shape {list(shape)} has {expected} elements, but {sent} were sent"
        raise BadTensor(message, code="shape_mismatch", hint="make the shape and the data agree")


def _checked(flat: list[Any], is_right: Any, otherwise: str) -> list[Any]:
    for position, value in enumerate(flat):
        if not is_right(value):
            raise BadTensor(otherwise, code="wrong_type", position=position)
    return flat


def _integers(flat: list[Any], datatype: str, dtype: np.dtype[Any]) -> list[int]:
    bounds = np.iinfo(dtype)
    low, high = int(bounds.min), int(bounds.max)
    whole = _checked(flat, lambda value: type(value) is int, "a whole number was expected")
    for position, value in enumerate(whole):
        if not low <= value <= high:
            message = f"the number is beyond {datatype}"
            raise BadTensor(
                message, code="out_of_range", position=position, hint=f"{low} to {high}, or another datatype"
            )
    return whole


def _float(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf


def _split(data: memoryview, expected: int) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length before it, in four bytes."""
    elements: list[bytes] = []
    offset = 0
    while len(elements) < expected:
        start = offset + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, offset)[0] if start <= len(data) else start
        if end > len(data):
            message = f"the data ends within the element; {len(data)} bytes were sent"
            hint = "send before each element its length, as four little-endian bytes"
            raise BadTensor(message, code="size_mismatch", position=len(elements), hint=hint)
        elements.append(bytes(data[start:end]))
        offset = end
    if offset != len(data):
        message = f"{len(data) - offset} bytes are left after {expected} elements"
        raise BadTensor(message, code="size_mismatch", hint="make the shape and the data agree")
    return elements
