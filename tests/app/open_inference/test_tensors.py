"""The codec of tensors: what is written is read again, and what does not fit is refused."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.open_inference.tensors import DATATYPES, DTYPES, BadTensor, Tensor, from_binary, from_json, to_binary, to_json

INTEGERS = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "f"]
#: The same tensors each time, however slow the machine is.
steadily = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def elements(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    if datatype == "BOOL":
        return st.booleans()
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        width: Any = dtype.itemsize * 8
        return st.floats(width=width, allow_nan=False)
    bounds = np.iinfo(dtype)
    return st.integers(int(bounds.min), int(bounds.max))


@st.composite
def made(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(DATATYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    size = math.prod(shape)
    values = draw(st.lists(elements(datatype), min_size=size, max_size=size))
    return Tensor(name="t", datatype=datatype, shape=shape, values=values)


@steadily
@given(made())
def test_tensor_is_read_as_it_was_written_when_it_is_binary(tensor: Tensor) -> None:
    read = from_binary(tensor.datatype, tensor.shape, memoryview(to_binary(tensor)))
    if tensor.datatype == "BYTES":
        read = [value.decode() for value in read]
    assert read == tensor.values


@steadily
@given(made())
def test_tensor_is_read_as_it_was_written_when_it_is_json(tensor: Tensor) -> None:
    finite = [0.0 if isinstance(value, float) and math.isinf(value) else value for value in tensor.values]
    tensor = Tensor(name="t", datatype=tensor.datatype, shape=tensor.shape, values=finite)
    assert from_json(tensor.datatype, tensor.shape, json.loads(json.dumps(to_json(tensor)))) == finite


@steadily
@given(made())
def test_nested_data_is_read_like_flat_data(tensor: Tensor) -> None:
    values: Any = np.empty(len(tensor.values), dtype=object)
    values[:] = tensor.values
    nested = values.reshape(tensor.shape).tolist()
    finite = all(not isinstance(value, float) or math.isfinite(value) for value in tensor.values)
    if finite:
        assert from_json(tensor.datatype, tensor.shape, nested) == tensor.values


@steadily
@given(made(), st.binary(min_size=1, max_size=3))
def test_binary_data_is_refused_when_bytes_are_left(tensor: Tensor, more: bytes) -> None:
    with pytest.raises(BadTensor):
        from_binary(tensor.datatype, tensor.shape, memoryview(to_binary(tensor) + more))


@steadily
@given(st.sampled_from(DATATYPES), st.lists(st.integers(-1, 2**64), max_size=3), st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(datatype: str, shape: list[int], data: bytes) -> None:
    try:
        values = from_binary(datatype, shape, memoryview(data))
    except BadTensor:
        return
    assert len(values) == math.prod(shape)


def refusal(datatype: str, shape: list[int], data: Any) -> tuple[str, int | None]:
    read: Any = from_binary if isinstance(data, bytes) else from_json
    with pytest.raises(BadTensor) as caught:
        read(datatype, shape, memoryview(data) if isinstance(data, bytes) else data)
    return caught.value.code, caught.value.position


@pytest.mark.parametrize("datatype", INTEGERS)
def test_whole_number_is_refused_when_it_is_beyond_its_datatype(datatype: str) -> None:
    bounds = np.iinfo(DTYPES[datatype])
    for value in (int(bounds.max) + 1, int(bounds.min) - 1, 10**400):
        assert refusal(datatype, [2], [0, value]) == ("out_of_range", 1)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_element_is_refused_when_it_is_of_another_type(datatype: str) -> None:
    wrong: list[Any] = [{}, "1" if datatype != "BYTES" else 1, 1 if datatype == "BOOL" else True]
    wrong += [1.0, None] if datatype in INTEGERS else []
    for value in wrong:
        assert refusal(datatype, [1], [value]) == ("wrong_type", 0)


def test_data_is_refused_when_its_shape_holds_another_number_of_elements() -> None:
    for shape, data in [([2], [1]), ([], [1, 2]), ([0], [1]), ([2, 2], [1, 2, 3]), ([2**62], [1]), ([2], [])]:
        assert refusal("INT32", shape, data) == ("shape_mismatch", None)
        assert refusal("INT32", shape, bytes(4 * len(data)))[0] == "size_mismatch"


def test_data_is_refused_when_it_is_nested_otherwise_than_its_shape_says() -> None:
    for shape, data in [([2, 2], [[1], [2, 3, 4]]), ([2, 1], [[1], 2]), ([2, 2], [[1, 2, 3, 4]] * 2)]:
        assert refusal("INT32", shape, data)[0] == "shape_mismatch"
    assert refusal("INT32", [2], [[1], [2]]) == ("wrong_type", 0)
    assert refusal("INT32", [1], {"0": 1})[0] == "wrong_type"


def test_shape_is_refused_when_a_dimension_is_negative_or_beyond_64_bits() -> None:
    for shape in ([-1], [2, -3], [2**63], [0, 2**64]):
        assert refusal("FP32", shape, [])[0] == "invalid_shape"
        assert refusal("BYTES", shape, b"")[0] == "invalid_shape"


def test_bytes_are_refused_when_a_length_leads_beyond_the_data() -> None:
    good = struct.pack("<I", 2) + b"ab"
    for data, position in [(b"\x01", 0), (good + b"\x02\x00\x00", 1), (good + b"\xff\xff\xff\xffab", 1), (good, 1)]:
        assert refusal("BYTES", [2], data) == ("size_mismatch", position)
    assert refusal("BYTES", [2**62], good) == ("size_mismatch", 1)


def test_boolean_is_refused_when_its_byte_is_neither_0_nor_1() -> None:
    assert refusal("BOOL", [3], b"\x00\x01\x02") == ("wrong_type", 2)


@pytest.mark.parametrize("datatype", FLOATS)
def test_number_is_rounded_to_its_datatype_when_it_is_json(datatype: str) -> None:
    binary = np.array([0.1], DTYPES[datatype]).tobytes()
    assert from_json(datatype, [1], [0.1]) == from_binary(datatype, [1], memoryview(binary))
    assert from_json(datatype, [1], [10**400]) == [math.inf]
    assert math.isnan(from_json(datatype, [1], [None])[0])


def test_number_that_is_not_finite_is_null_in_json_and_itself_in_binary() -> None:
    tensor = Tensor(name="interval", datatype="FP64", shape=(1, 2), values=[-math.inf, math.inf])
    assert to_json(tensor) == [None, None]
    assert from_binary("FP64", [1, 2], memoryview(to_binary(tensor))) == tensor.values
