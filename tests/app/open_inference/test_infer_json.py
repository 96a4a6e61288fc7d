"""Infer calls in JSON on tabular models: answers, versions, and everything that is refused."""

import json
import math
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from tests.app.adapted import publish, services_of, table_outcome
from tests.app.open_inference.calls import COLOURS, SIZES, fruit, infer, outputs, problem, tensor

ROWS = [{"size": size, "colour": colour} for size, colour in zip(SIZES, COLOURS, strict=True)]


@pytest.fixture(autouse=True)
def _model(client):
    publish(services_of(client), "fruit")


def predictions(client, rows=ROWS, model="fruit"):
    return client.post(f"/v1/models/{model}/predict", json={"inputs": rows}).json()["predictions"]


def test_infer_answers_what_predict_answers(client):
    found, expected = outputs(infer(client, fruit())), predictions(client)
    assert found["label"] == ["small", "big", "small"]
    for name in ("label", "probability", "ood_score", "abstain"):
        assert found[name] == [prediction[name] for prediction in expected]
    classes = client.get("/v2/models/fruit").json()["outputs"][2]["parameters"]["classes"]
    assert found["probabilities"] == [p["probabilities"][label] for p in expected for label in classes]
    assert [json.loads(told) for told in found["prediction_set"]] == [p["prediction_set"] for p in expected]


def test_infer_gives_value_and_interval_when_the_model_predicts_numbers(client):
    publish(services_of(client), "weight", table_outcome("regression"), task="regression")
    answer, expected = infer(client, fruit(), "weight"), predictions(client, model="weight")
    found = outputs(answer)
    assert set(found) == {"value", "interval", "ood_score", "abstain"}
    assert found["value"] == [prediction["value"] for prediction in expected]
    assert found["interval"] == [end for prediction in expected for end in prediction["interval"]]
    assert [each["shape"] for each in answer.json()["outputs"]] == [[3], [3, 2], [3], [3]]


def test_infer_names_the_model_the_version_and_the_id(client):
    answer = infer(client, fruit(id="\0 42")).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("fruit", "1", "\0 42")
    assert "id" not in infer(client, fruit()).json()


def test_infer_answers_by_the_version_or_alias_that_is_named(client):
    publish(services_of(client), "fruit")
    client.put("/v1/models/fruit/aliases/champion", json={"version": 1})
    assert infer(client, fruit()).json()["model_version"] == "2"
    assert infer(client, fruit(), "fruit/versions/1").json()["model_version"] == "1"
    by_alias = infer(client, fruit(parameters={"alias": "champion"}))
    assert by_alias.json()["model_version"] == "1"
    both = infer(client, fruit(parameters={"alias": "champion"}), "fruit/versions/1")
    assert problem(both) == ("ambiguous_version", "/body/parameters/alias")


def test_infer_is_not_found_when_nothing_has_the_name(client):
    none = [
        infer(client, fruit(), "none"), infer(client, fruit(), "fruit/versions/9"), infer(client, fruit(), "fruit@1"),
        infer(client, fruit(parameters={"alias": "none"})),
    ]  # fmt: skip
    assert [(answer.status_code, bool(answer.json()["error"])) for answer in none] == [(404, True)] * 4


def test_infer_answers_the_outputs_that_are_chosen_in_their_order(client):
    answer = infer(client, fruit(outputs=[{"name": "abstain"}, {"name": "label"}])).json()
    assert [each["name"] for each in answer["outputs"]] == ["abstain", "label"]


def test_infer_takes_numbers_of_every_datatype(client):
    expected = predictions(client, [{"size": 1}, {"size": 9}])
    for datatype in ("INT8", "INT64", "UINT8", "UINT64", "FP16", "FP32", "FP64"):
        found = outputs(infer(client, {"inputs": [tensor("size", datatype, [1, 9])]}))
        assert found["probability"] == [prediction["probability"] for prediction in expected], datatype
    texts = outputs(infer(client, {"inputs": [tensor("size", "BYTES", ["1", "9"])]}))
    assert texts["probability"] == [prediction["probability"] for prediction in expected]


def test_infer_takes_columns_of_the_shape_n_by_1(client):
    expected = outputs(infer(client, fruit()))
    for sizes in ([[size] for size in SIZES], SIZES):
        nested = tensor("size", "FP64", sizes) | {"shape": [3, 1]}
        assert outputs(infer(client, {"inputs": [nested, tensor("colour", "BYTES", COLOURS)]})) == expected


def test_infer_takes_nan_null_the_empty_string_and_no_column_as_missing(client):
    expected = predictions(client, [{"size": None, "colour": None}])[0]["probability"]
    for size, colour in (("NaN", '""'), ("null", '"NA"')):
        body = json.dumps(fruit()).replace(json.dumps(SIZES), f"[{size}]").replace(json.dumps(COLOURS), f"[{colour}]")
        sent = client.post(
            "/v2/models/fruit/infer",
            content=body.replace("[3]", "[1]"),
            headers={"Content-Type": "application/json"},
        )
        assert outputs(sent)["probability"] == [expected]
    alone = outputs(infer(client, {"inputs": [tensor("colour", "BYTES", [""])]}))
    assert alone["probability"] == [expected]


def test_infer_takes_parameters_that_mean_nothing_here(client):
    body = fruit(parameters={"priority": 3, "timeout": 100, "headers": {}})
    body["inputs"][0]["parameters"] = {"content_type": "np"}
    assert infer(client, body).status_code == 200


def test_infer_refuses_the_call_and_names_every_bad_element(client):
    answer = infer(client, {"inputs": [tensor("colour", "BYTES", COLOURS), tensor("size", "BYTES", ["1", "x", "y"])]})
    assert answer.status_code == 422
    told = answer.json()
    assert [item["pointer"] for item in told["errors"]] == ["/body/inputs/1/data/1", "/body/inputs/1/data/2"]
    assert told["errors"][0]["message"].startswith("size[1]: ")
    assert "size[1]" in told["error"]


def test_infer_refuses_numbers_that_are_not_finite(client):
    for number in ("Infinity", "-1e400"):
        body = json.dumps({"inputs": [tensor("size", "FP64", [1.0, 2.0])]}).replace("2.0", number)
        answer = client.post("/v2/models/fruit/infer", content=body, headers={"Content-Type": "application/json"})
        assert problem(answer) == ("non_finite", "/body/inputs/0/data/1")
    beyond = tensor("size", "FP32", [1, 1e300])
    assert problem(infer(client, {"inputs": [beyond]})) == ("non_finite", "/body/inputs/0/data/1")


SIZE = tensor("size", "FP64", [1.0])
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"inputs": []}, "too_short", "/body/inputs"),
    ({}, "missing", "/body/inputs"),
    ({"inputs": [SIZE], "input": 1}, "extra_forbidden", "/body/input"),
    ({"inputs": [1] * 1000}, "model_type", "/body/inputs/0"),
    ({"inputs": [SIZE | {"datatype": "STRING"}]}, "literal_error", "/body/inputs/0/datatype"),
    ({"inputs": [SIZE | {"datatype": "BF16"}]}, "literal_error", "/body/inputs/0/datatype"),
    ({"inputs": [SIZE | {"shape": ["1"]}]}, "int_type", "/body/inputs/0/shape/0"),
    ({"inputs": [SIZE | {"shape": [1.0]}]}, "int_type", "/body/inputs/0/shape/0"),
    ({"inputs": [SIZE | {"shape": []}]}, "invalid_shape", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [0], "data": []}]}, "invalid_shape", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [-1]}]}, "invalid_shape", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [1, 2]}]}, "invalid_shape", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [1, 1, 1]}]}, "invalid_shape", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [1] * 9}]}, "too_long", "/body/inputs/0/shape"),
    ({"inputs": [SIZE] * 10_001}, "too_long", "/body/inputs"),
    ({"inputs": [SIZE | {"shape": [2**63]}]}, "too_many_inputs", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [1001]}]}, "too_many_inputs", "/body/inputs/0/shape"),
    ({"inputs": [SIZE | {"shape": [2]}]}, "shape_mismatch", "/body/inputs/0/data"),
    ({"inputs": [SIZE | {"data": None}]}, "wrong_type", "/body/inputs/0/data"),
    ({"inputs": [SIZE | {"data": [[[1]]]}]}, "wrong_type", "/body/inputs/0/data/0"),
    ({"inputs": [SIZE | {"datatype": "INT64", "data": [2**63]}]}, "out_of_range", "/body/inputs/0/data/0"),
    ({"inputs": [SIZE, tensor("colour", "BYTES", ["a", "b"])]}, "shape_mismatch", "/body/inputs/1/shape"),
    ({"inputs": [SIZE, SIZE]}, "duplicate_tensor", "/body/inputs/1/name"),
    ({"inputs": [SIZE | {"name": "weight"}]}, "unknown_tensor", "/body/inputs/0/name"),
    ({"inputs": [SIZE | {"name": ""}]}, "string_too_short", "/body/inputs/0/name"),
    ({"inputs": [SIZE], "outputs": [{"name": "logits"}]}, "unknown_tensor", "/body/outputs/0/name"),
    ({"inputs": [SIZE], "outputs": [{"name": "value"}]}, "unknown_tensor", "/body/outputs/0/name"),
    ({"inputs": [SIZE], "outputs": [{"name": "label"}] * 2}, "duplicate_tensor", "/body/outputs/1/name"),
    ({"inputs": [SIZE], "id": 7}, "string_type", "/body/id"),
    ({"inputs": [SIZE], "parameters": {"alias": "9"}}, "string_pattern_mismatch", "/body/parameters/alias"),
    ({"inputs": [SIZE], "parameters": {"sequence_id": 1}}, "unsupported_parameter", "/body/parameters/sequence_id"),
    ({"inputs": [SIZE], "model_name": "other"}, "contradicting_name", "/body/model_name"),
    ({"inputs": [SIZE], "model_version": "2"}, "contradicting_name", "/body/model_version"),
]


def test_infer_says_what_is_wrong_with_a_body(client):
    for body, code, pointer in REFUSED:
        assert problem(infer(client, body)) == (code, pointer), body


def test_infer_repeats_no_long_name(client):
    for body in ({"inputs": [SIZE | {"name": "x" * 10_000}]}, {"inputs": [SIZE], "outputs": [{"name": "x" * 10_000}]}):
        assert len(infer(client, body).content) < 3_000


def test_infer_refuses_what_is_no_json_object(client):
    for body in (b"", b"null", b"[]", b"{", b"\xff", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        answer = client.post("/v2/models/fruit/infer", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert answer.json()["errors"]


def test_infer_refuses_other_media_and_compressed_bodies(client):
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=b"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        answer = client.post("/v2/models/fruit/infer", content=json.dumps(fruit()), headers=headers)
        assert answer.status_code == 415


def test_infer_has_null_where_an_end_of_an_interval_is_infinite(client):
    publish(services_of(client), "weight", table_outcome("regression"), task="regression")
    version = client.get("/v1/models/weight/versions/1").json()
    learner = services_of(client).inference.serving.models.get(version["artifact"]).learner
    object.__setattr__(learner, "held_out_heads", None)
    object.__setattr__(learner, "interval_half_width", math.inf)
    assert outputs(infer(client, fruit(), "weight"))["interval"] == [None] * 6


def test_infer_takes_no_larger_body_than_any_request(settings):
    small = settings.model_copy(update={"max_request_bytes": 1_000})
    with TestClient(create_app(small), raise_server_exceptions=False) as client:
        publish(services_of(client), "fruit")
        assert infer(client, fruit()).status_code == 200
        answer = infer(client, fruit(id="x" * 1_000))
    assert answer.status_code == 413
    assert answer.json()["error"]


def test_infer_counts_what_it_answers_and_what_it_refuses(client):
    infer(client, fruit())
    infer(client, {"inputs": [tensor("size", "BYTES", ["x"])]})
    told = client.get("/metrics").text
    assert 'metagraft_predictions_total{modality="tabular",outcome="answered"} 3.0' in told
    assert 'metagraft_predictions_total{modality="tabular",outcome="refused"} 1.0' in told
