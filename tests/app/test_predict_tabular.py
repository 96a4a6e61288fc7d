"""Predict calls on a tabular model: versions, aliases, answers, bad items and bad requests; on both databases."""

import math

import pytest

from app.settings import Settings
from tests.app.adapted import publish, services_of, table_outcome

SMALL, BIG = {"size": 1.4, "colour": "red"}, {"size": 9.1, "colour": "blue"}


@pytest.fixture(autouse=True)
def _model(client):
    publish(services_of(client), "fruit")


def predict(client, inputs, path="", **body):
    return client.post(f"/v1/models/fruit{path}/predict", json={"inputs": inputs, **body})


def raw(client, content):
    return client.post("/v1/models/fruit/predict", content=content, headers={"Content-Type": "application/json"})


def test_predict_answers_every_input_in_order(client):
    answer = predict(client, [BIG, SMALL, BIG]).json()
    assert (answer["model"], answer["version"]) == ("fruit", 1)
    assert [prediction["label"] for prediction in answer["predictions"]] == ["big", "small", "big"]


def test_predict_gives_probabilities_a_set_and_a_familiarity(client):
    (prediction,) = predict(client, [SMALL]).json()["predictions"]
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    assert (
        prediction["probability"] == prediction["probabilities"]["small"] == max(prediction["probabilities"].values())
    )
    assert prediction["prediction_set"][0] == "small"
    assert 0 <= prediction["ood_score"] <= 1
    assert prediction["abstain"] is False
    assert prediction["evidence"] == []


def test_predict_lists_the_best_classes_when_top_k_is_given(client):
    (prediction,) = predict(client, [SMALL], top_k=1).json()["predictions"]
    assert list(prediction["probabilities"]) == ["small"]


def test_predict_names_the_examples_behind_an_answer_when_asked_to_explain(client):
    (prediction,) = predict(client, [SMALL], explain=True).json()["predictions"]
    nearest = prediction["evidence"][0]
    assert nearest["label"] == "small"
    assert nearest["example"] == 4  # the row of the dataset that is small, red and of size 1.2
    similarities = [entry["similarity"] for entry in prediction["evidence"]]
    assert similarities == sorted(similarities, reverse=True)


def test_predict_answers_by_the_version_or_alias_that_is_named(client):
    publish(services_of(client), "fruit")
    client.put("/v1/models/fruit/aliases/champion", json={"version": 1})
    assert predict(client, [SMALL]).json()["version"] == 2
    assert predict(client, [SMALL], "/versions/1").json()["version"] == 1
    named = client.post("/v1/models/fruit/predict", params={"alias": "champion"}, json={"inputs": [SMALL]})
    assert named.json()["version"] == 1


def test_predict_is_not_found_when_nothing_has_the_name(client):
    for path in [
        "/v1/models/none/predict",
        "/v1/models/fruit/versions/9/predict",
        "/v1/models/fruit/predict?alias=none",
    ]:
        assert client.post(path, json={"inputs": [SMALL]}).status_code == 404


def test_predict_gives_a_value_and_an_interval_when_the_model_predicts_numbers(client):
    publish(services_of(client), "weight", table_outcome("regression"), task="regression")
    (prediction,) = client.post("/v1/models/weight/predict", json={"inputs": [SMALL]}).json()["predictions"]
    low, high = prediction["interval"]
    assert low < prediction["value"] < high
    assert "label" not in prediction


def test_predict_puts_an_error_in_the_place_of_a_bad_input_and_answers_the_others(client):
    for bad, code in [
        ("a text", "wrong_type"),
        (None, "wrong_type"),
        ([1], "wrong_type"),
        ({}, "unknown_columns"),
        ({"shape": 1}, "unknown_columns"),
        ({"size": "huge"}, "not_a_number"),
        ({"size": {"cm": 3}}, "wrong_type"),
        ({"size": 10**400}, "non_finite"),
    ]:
        alone = predict(client, [SMALL, BIG]).json()["predictions"]
        first, wrong, last = predict(client, [SMALL, bad, BIG]).json()["predictions"]
        assert wrong.keys() == {"error"}
        assert wrong["error"]["code"] == code
        assert [first, last] == alone


def test_predict_puts_an_error_in_the_place_of_a_number_that_is_not_finite(client):
    for number in ["NaN", "Infinity", "-Infinity", "1e400"]:
        answer = raw(client, '{"inputs": [{"size": N}, {"size": 1}]}'.replace("N", number))
        assert answer.status_code in {200, 422}
        if answer.status_code == 200:
            wrong, fine = answer.json()["predictions"]
            assert wrong["error"]["code"] == "non_finite"
            assert fine["label"] == "small"


def test_predict_answers_extreme_numbers(client):
    for size in [2**63, -(2**70), 1e308, 1e-320, True, "7", " 1e3 "]:
        (prediction,) = predict(client, [{"size": size}]).json()["predictions"]
        assert prediction["label"] in {"small", "big"}
        assert math.isfinite(prediction["probability"])


def test_predict_takes_a_column_it_does_not_get_as_missing_and_ignores_others(client):
    partial, extended = predict(client, [{"size": 1.4}, {"size": 1.4, "colour": None, "x" * 1000: {}}]).json()[
        "predictions"
    ]
    assert partial == extended


def test_predict_is_a_client_error_when_the_body_is_wrong(client):
    for body in [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": "x"}',
        b'{"inputs": [{}], "top_k": 0}',
        b'{"inputs": [{}], "top_k": "5"}',
        b'{"inputs": [{}], "top_k": 99999999999999999999}',
        b'{"inputs": [{}], "explain": "yes"}',
        b'{"inputs": [{}], "model": "x"}',
        b'{"inputs": ["\\ud800"]}',
        b'{"inputs": ["\xff"]}',
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ]:
        answer = raw(client, body)
        assert answer.status_code == 422
        assert answer.json()["errors"]


def test_predict_refuses_more_inputs_than_the_limit(client):
    limit = Settings().max_predict_inputs
    assert predict(client, [SMALL] * limit).status_code == 200
    answer = predict(client, [SMALL] * (limit + 1))
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_inputs")


def test_predict_refuses_files_when_the_model_takes_rows(client):
    answer = client.post("/v1/models/fruit/predict", files={"files": ("a.png", b"x")})
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_modality")


def test_predict_refuses_a_media_type_it_does_not_know(client):
    answer = client.post("/v1/models/fruit/predict", content=b"size=1", headers={"Content-Type": "text/csv"})
    assert answer.status_code == 415


def test_predict_counts_what_it_answered(client):
    predict(client, [SMALL, {}, BIG])
    text = client.get("/metrics").text
    assert 'metagraft_predictions_total{modality="tabular",outcome="answered"} 2.0' in text
    assert 'metagraft_predictions_total{modality="tabular",outcome="refused"} 1.0' in text


def test_predict_says_that_the_stored_model_is_damaged_and_other_models_go_on(client):
    services = services_of(client)
    publish(services, "weights", task="regression")
    path = services.storage.fetch(client.get("/v1/models/fruit/versions/1").json()["artifact"])
    path.write_bytes(b"damaged")
    for _ in range(2):
        answer = predict(client, [SMALL])
        assert (answer.status_code, answer.json()["code"]) == (500, "artifact_corrupted")
        assert answer.json()["retryable"] is False
        assert "restore it from a backup" in answer.json()["detail"]
    assert client.post("/v1/models/weights/predict", json={"inputs": [SMALL]}).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_strategies_show_the_schema_of_their_options(client):
    answer = client.get("/v1/strategies").json()
    schemas = {strategy["name"]: strategy["options"] for strategy in answer["strategies"]}
    assert schemas.keys() == {"auto", "target_only", "metric", "init"}
    assert schemas["metric"]["properties"]["top_k"]["maximum"] == 100_000
    assert schemas["auto"]["additionalProperties"] is False
    assert "steps" in answer["meta_train"]["options"]["properties"]


def test_encoders_name_one_default_for_each_modality(client):
    encoders = client.get("/v1/encoders").json()["items"]
    assert sorted(e["modality"] for e in encoders if e["default"]) == ["image", "tabular", "text"]
