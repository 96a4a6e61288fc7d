"""Infer calls on texts and images, with the real encoders."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.app.authorised import bearer
from tests.app.open_inference.calls import binary, infer, infer_binary, outputs, problem, tensor
from tests.app.open_inference.models import Furnished, png


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.fixture(scope="module")
def served(furnished: Furnished) -> Iterator[httpx.Client]:
    headers = bearer(furnished.token)
    with httpx.Client(base_url=furnished.url, headers=headers, timeout=120.0, trust_env=False) as client:
        yield client


def answers(client: Any, model: str, elements: list[str]) -> dict[str, Any]:
    (name,) = (each["name"] for each in client.get(f"/v2/models/{model}").json()["inputs"])
    return outputs(infer(client, {"inputs": [tensor(name, "BYTES", elements)]}, model))


def test_texts_are_answered_in_json_and_in_binary(served: httpx.Client) -> None:
    asked = ["what a wonderful film", "térrible, i hated every minute"]
    found = answers(served, "film", asked)
    assert found["label"] == ["good", "bad"]
    data = packed(*(text.encode() for text in asked))
    for shape in ([2], [2, 1]):
        sent = infer_binary(served, {"inputs": [binary("text", "BYTES", shape, len(data))]}, data, "film")
        assert outputs(sent)["label"] == ["good", "bad"]


def test_text_that_cannot_be_answered_refuses_the_call(served: httpx.Client) -> None:
    answer = infer(served, {"inputs": [tensor("text", "BYTES", ["fine", " ", "good", ""])]}, "film")
    assert problem(answer) == ("empty_text", "/body/inputs/0/data/1")
    assert [item["message"] for item in answer.json()["errors"]] == [
        "text[1]: the text is empty",
        "text[3]: the text is empty",
    ]
    data = packed(b"fine", b"\xff\xfe")
    sent = infer_binary(served, {"inputs": [binary("text", "BYTES", [2], len(data))]}, data, "film")
    assert problem(sent) == ("invalid_text", "/body/inputs/0/data/1")


def test_model_of_texts_takes_its_one_tensor(served: httpx.Client) -> None:
    one = tensor("text", "BYTES", ["fine"])
    for inputs, code in [
        ([tensor("text", "INT64", [1])], "wrong_datatype"),
        ([tensor("image", "BYTES", ["x"])], "unknown_tensor"),
        ([one, tensor("more", "BYTES", ["x"])], "unknown_tensor"),
        ([one, one], "duplicate_tensor"),
    ]:
        assert problem(infer(served, {"inputs": inputs}, "film"))[0] == code


def test_images_are_answered_as_base64_data_urls_and_files(served: httpx.Client) -> None:
    red, blue = png("red", 45), png("blue", 45)
    plain = base64.b64encode(red).decode()
    asked = [plain, f"data:image/png;base64,{base64.b64encode(blue).decode()}"]
    assert answers(served, "tint", asked)["label"] == ["warm", "cold"]
    data = packed(red, blue, *(text.encode() for text in asked))
    body = {"inputs": [binary("image", "BYTES", [4], len(data))]}
    assert outputs(infer_binary(served, body, data, "tint"))["label"] == ["warm", "cold"] * 2


def test_image_that_cannot_be_read_refuses_the_call(served: httpx.Client) -> None:
    for bad in (b"", b"not base64!", b"\x89PNG\r\n", png("red")[:60], base64.b64encode(b"no image")):
        data = packed(png("red"), bad)
        answer = infer_binary(served, {"inputs": [binary("image", "BYTES", [2], len(data))]}, data, "tint")
        assert problem(answer)[1] == "/body/inputs/0/data/1", bad
