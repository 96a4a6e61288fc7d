"""Infer calls with binary tensors: sent, answered, and refused where bytes and heads do not agree."""

import json
import struct

import numpy as np
import pytest

from tests.app.adapted import publish, services_of
from tests.app.open_inference.calls import (
    COLOURS,
    HEADER_LENGTH,
    SIZES,
    binary,
    fruit,
    infer,
    infer_binary,
    outputs,
    problem,
    tensor,
)

RAW_SIZES = np.array(SIZES, "<f8").tobytes()
RAW_COLOURS = b"".join(struct.pack("<I", len(colour)) + colour.encode() for colour in COLOURS)
BODY = {
    "inputs": [
        binary("size", "FP64", [3], len(RAW_SIZES)),
        tensor("colour", "BYTES", COLOURS),
    ]
}


@pytest.fixture(autouse=True)
def _model(client):
    publish(services_of(client), "fruit")


def test_binary_tensors_are_answered_like_json(client):
    expected = outputs(infer(client, fruit()))
    both = {"inputs": [BODY["inputs"][0], binary("colour", "BYTES", [3, 1], len(RAW_COLOURS))]}
    assert outputs(infer_binary(client, both, RAW_SIZES + RAW_COLOURS)) == expected
    assert outputs(infer_binary(client, BODY, RAW_SIZES)) == expected


def test_header_length_is_taken_where_no_tensor_is_binary(client):
    assert infer_binary(client, fruit(), b"").status_code == 200


def test_nan_is_missing_in_binary(client):
    nan = infer_binary(client, {"inputs": [binary("size", "FP32", [1], 4)]}, np.array([np.nan], "<f4").tobytes())
    null = infer(client, {"inputs": [tensor("size", "FP32", [None])]})
    assert outputs(nan) == outputs(null)


def test_outputs_are_binary_where_the_request_says_so(client):
    expected = outputs(infer(client, fruit()))
    chosen = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "abstain"},
        {"name": "label", "parameters": {"binary_data": True}},
    ]
    answer = infer(client, fruit(outputs=chosen))
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEADER_LENGTH])
    head, data = json.loads(answer.content[:length]), answer.content[length:]
    numbers, abstain, labels = head["outputs"]
    assert (numbers["shape"], numbers["datatype"], numbers["parameters"]) == ([3, 2], "FP64", {"binary_data_size": 48})
    assert np.frombuffer(data[:48], "<f8").tolist() == expected["probabilities"]
    assert abstain["data"] == expected["abstain"]
    assert data[48:] == b"\x05\x00\x00\x00small\x03\x00\x00\x00big\x05\x00\x00\x00small"
    assert labels["parameters"] == {"binary_data_size": len(data) - 48}


def test_outputs_are_all_binary_unless_one_says_otherwise(client):
    answer = infer(client, fruit(parameters={"binary_data_output": True}))
    head = json.loads(answer.content[: int(answer.headers[HEADER_LENGTH])])
    assert not any("data" in each for each in head["outputs"])
    chosen = [{"name": "label", "parameters": {"binary_data": False}}]
    answer = infer(client, fruit(parameters={"binary_data_output": True}, outputs=chosen))
    assert outputs(answer) == {"label": ["small", "big", "small"]}
    assert HEADER_LENGTH not in answer.headers


def test_header_length_is_refused_when_it_is_no_number(client):
    for length in ("", "-1", "1e3", "0x10", "9" * 11, "9" * 5_000, "\u0661".encode(), "10 20", "1.0"):
        answer = infer_binary(client, BODY, RAW_SIZES, length=length)
        assert problem(answer)[1].lower() == f"/header/{HEADER_LENGTH}".lower()


def test_header_length_is_refused_when_it_is_wrong(client):
    head = json.dumps(BODY).encode()
    for length in (0, 1, len(head) - 1, len(head) + 1, len(head) + 24, len(head) + 25, 9_999_999_999):
        answer = infer_binary(client, BODY, RAW_SIZES, length=str(length))
        assert answer.status_code == 422, length
        assert answer.json()["error"]


def test_header_length_is_refused_when_it_is_sent_twice(client):
    sent = [(HEADER_LENGTH, "10"), (HEADER_LENGTH, "10")]
    answer = client.post("/v2/models/fruit/infer", content=json.dumps(fruit()), headers=sent)
    assert problem(answer) == ("header_length", f"/header/{HEADER_LENGTH}")


def test_header_length_is_asked_for_when_a_tensor_is_binary(client):
    answer = client.post("/v2/models/fruit/infer", content=json.dumps(BODY))
    assert problem(answer) == ("missing", f"/header/{HEADER_LENGTH}")


REFUSED = [
    (binary("size", "FP64", [3], 24), 23, "size_mismatch", "/body/inputs/0/parameters/binary_data_size"),
    (binary("size", "FP64", [3], 24), 25, "size_mismatch", "/body"),
    (binary("size", "FP64", [3], 23), 23, "size_mismatch", "/body/inputs/0/data"),
    (binary("size", "FP64", [2], 24), 24, "size_mismatch", "/body/inputs/0/data"),
    (binary("size", "FP64", [3], 0), 0, "size_mismatch", "/body/inputs/0/data"),
    (binary("size", "FP64", [3], -24), 24, "greater_than_equal", "/body/inputs/0/parameters/binary_data_size"),
    (binary("size", "FP64", [3], 2**63), 24, "size_mismatch", "/body/inputs/0/parameters/binary_data_size"),
    (binary("size", "FP64", [3], 24) | {"data": [1]}, 24, "ambiguous_data", "/body/inputs/0"),
    (binary("colour", "BYTES", [3], 11), 11, "size_mismatch", "/body/inputs/0/data/2"),
    (binary("colour", "BYTES", [1], 24), 24, "size_mismatch", "/body/inputs/0/data"),
    (binary("size", "BOOL", [1], 1), 1, "wrong_type", "/body/inputs/0/data/0"),
    (binary("size", "FP64", [3], 24, shared_memory_region="r"), 24, "unsupported_parameter",
     "/body/inputs/0/parameters/shared_memory_region"),
]  # fmt: skip


def test_infer_says_what_is_wrong_with_binary_data(client):
    for head, size, code, pointer in REFUSED:
        data = b"\x02" * size if head["datatype"] == "BOOL" else bytes(size)
        assert problem(infer_binary(client, {"inputs": [head]}, data)) == (code, pointer), head


def test_text_is_refused_when_it_is_not_utf_8(client):
    data = b"\x01\x00\x00\x00a\x02\x00\x00\x00\xff\xfe"
    answer = infer_binary(client, {"inputs": [binary("colour", "BYTES", [2], len(data))]}, data)
    assert problem(answer) == ("invalid_text", "/body/inputs/0/data/1")
