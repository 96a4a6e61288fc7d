"""A client of the protocol that others have written, against a real server on loopback."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.app.authorised import bearer
from tests.app.open_inference.calls import COLOURS, SIZES
from tests.app.open_inference.models import Furnished, png

PICTURES = [png("red", 45), png("blue", 45)]


class Client:
    """The client, with the key of its project. It writes into the headers it is given, so each call has its own."""

    def __init__(self, port: int, token: str) -> None:
        self.http = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=120.0)
        self.token = token

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self.http, method)(*arguments, headers=bearer(self.token))

    def infer(self, model: str, inputs: list[Any], **more: Any) -> Any:
        return self.http.infer(model, inputs, headers=bearer(self.token), **more)


@pytest.fixture(scope="module")
def client(furnished: Furnished) -> Iterator[Client]:
    found = Client(furnished.port, furnished.token)
    yield found
    found.http.close()


def given(name: str, datatype: str, values: Any, *, binary: bool) -> Any:
    kinds: dict[str, Any] = {"BYTES": np.object_, "FP32": np.float32, "FP64": np.float64, "INT32": np.int32}
    array = np.array(values, dtype=kinds[datatype])
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def rows(*, binary: bool) -> list[Any]:
    return [given("size", "FP64", SIZES, binary=binary), given("colour", "BYTES", COLOURS, binary=not binary)]


def labels(result: Any) -> list[str]:
    return [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label").tolist()]


def test_client_finds_the_server_and_its_models_ready(client: Client) -> None:
    assert client.http.is_server_live()
    assert client.http.is_server_ready()
    assert client.ask("is_model_ready", "fruit")
    assert client.ask("is_model_ready", "fruit", "2")
    assert not client.ask("is_model_ready", "fruit", "3")
    assert client.ask("get_server_metadata")["name"] == "metagraft"
    index = client.ask("get_model_repository_index")
    assert [(each["name"], each["version"]) for each in index] == [
        ("film", "1"), ("fruit", "2"), ("tint", "1"), ("weight", "1"),
    ]  # fmt: skip


def test_client_reads_the_tensors_of_a_model(client: Client) -> None:
    told = client.ask("get_model_metadata", "fruit", "1")
    assert told["versions"] == ["1", "2"]
    assert {each["name"] for each in told["inputs"]} == {"size", "colour"}


@pytest.mark.parametrize("binary", [True, False])
def test_client_has_a_table_answered(client: Client, binary: bool) -> None:
    result = client.infer("fruit", rows(binary=binary), request_id="42")
    told = result.get_response()
    assert (told["model_name"], told["model_version"], told["id"]) == ("fruit", "2", "42")
    assert labels(result) == ["small", "big", "small"]
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (3, 2)
    assert probabilities.sum(1) == pytest.approx(1)
    assert result.as_numpy("probability") == pytest.approx(probabilities.max(1))
    assert [json.loads(text)[0] for text in result.as_numpy("prediction_set")] == ["small", "big", "small"]
    assert result.as_numpy("abstain").dtype == np.bool_


def test_client_chooses_outputs_and_how_they_are_sent(client: Client) -> None:
    wanted = [
        triton.InferRequestedOutput("label", binary_data=False),
        triton.InferRequestedOutput("probability", binary_data=True),
    ]
    result = client.infer("fruit", rows(binary=True), outputs=wanted)
    assert [each["name"] for each in result.get_response()["outputs"]] == ["label", "probability"]
    assert labels(result) == ["small", "big", "small"]
    assert result.as_numpy("probability").shape == (3,)


def test_client_chooses_the_version_or_the_alias(client: Client) -> None:
    answered = client.infer("fruit", rows(binary=True), model_version="1").get_response()
    assert answered["model_version"] == "1"
    latest = client.infer("fruit", rows(binary=True), parameters={"alias": "latest"}).get_response()
    assert latest["model_version"] == "2"


def test_client_takes_missing_values_as_nan(client: Client) -> None:
    for binary in (True, False):
        sizes = given("size", "FP32", [[1.5], [np.nan]], binary=binary)
        result = client.infer("weight", [sizes])
        value, interval = result.as_numpy("value"), result.as_numpy("interval")
        assert interval.shape == (2, 2)
        assert (interval[:, 0] <= value).all()
        assert (value <= interval[:, 1]).all()


@pytest.mark.parametrize("binary", [True, False])
def test_client_has_texts_answered(client: Client, binary: bool) -> None:
    texts = given("text", "BYTES", ["what a wonderful film", "terrible, i hated it ☹"], binary=binary)
    assert labels(client.infer("film", [texts])) == ["good", "bad"]


def test_client_has_images_answered(client: Client) -> None:
    files = given("image", "BYTES", PICTURES, binary=True)
    assert labels(client.infer("tint", [files])) == ["warm", "cold"]
    written = [base64.b64encode(picture).decode() for picture in PICTURES]
    for binary in (True, False):
        assert labels(client.infer("tint", [given("image", "BYTES", written, binary=binary)])) == ["warm", "cold"]


def test_client_is_told_what_is_wrong(client: Client) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("film", [given("text", "BYTES", ["fine", ""], binary=True)])
    assert refused.value.status() == "422"
    assert "text[1]: the text is empty" in refused.value.message()
    with pytest.raises(InferenceServerException) as unknown:
        client.infer("none", rows(binary=True))
    assert (unknown.value.status(), unknown.value.message()) == ("404", "There is no model 'none'.")
    with pytest.raises(InferenceServerException) as stranger:
        client.http.infer("fruit", rows(binary=True))
    assert stranger.value.status() == "401"
