"""Feedback on a model: what is kept and what is refused, on both databases."""

from typing import Any

import pytest
from sqlalchemy import text

from app.errors import NotFound
from app.models.feedback import checked, collected, keep
from app.models.schemas import FeedbackCreate
from app.models.service import resolve
from app.security import DEFAULT_PROJECT
from tests.app.adapted import publish, services_of


def send(client, input_, label, name="fruit"):
    return client.post(f"/v1/models/{name}/feedback", json={"input": input_, "label": label})


def kept(client, name="fruit"):
    services = services_of(client)
    with services.database.session(read_only=True) as session:
        return [(row.input, row.label) for row in collected(session, DEFAULT_PROJECT, name)]


@pytest.mark.parametrize(
    ("label", "stored"), [("small", "small"), ("new class", "new class"), (" big ", "big"), (3, "3")]
)
def test_feedback_is_kept_with_a_known_or_new_class(client, label, stored):
    publish(services_of(client), "fruit")
    assert send(client, {"size": 1.5, "colour": None, "other": 1}, label).status_code == 201
    assert kept(client) == [({"columns": {"size": 1.5, "colour": None}}, stored)]


@pytest.mark.parametrize("label", [12, 12.5, -1e300])
def test_feedback_is_kept_with_a_number_when_the_model_predicts_numbers(client, label):
    publish(services_of(client), "fruit", task="regression")
    assert send(client, {"size": "2.5"}, label).status_code == 201
    assert float(kept(client)[0][1]) == label


def test_feedback_is_refused_when_the_label_is_no_finite_number(client):
    publish(services_of(client), "fruit", task="regression")
    for label in ["12", 10**400, True, None]:
        assert send(client, {"size": 2.5}, label).status_code == 422


def test_feedback_is_refused_when_the_label_is_no_class(client):
    publish(services_of(client), "fruit")
    for label in ["", "  ", "x" * 201, "a\0b", 1.5, True, None, ["a"]]:
        assert send(client, {"size": 2.5}, label).status_code == 422


def test_feedback_is_refused_when_the_input_does_not_fit_the_model(client):
    publish(services_of(client), "fruit")
    inputs: list[Any] = [
        None,
        "text",
        1,
        [],
        {},
        {"shape": 1},
        {"size": "big"},
        {"size": [1]},
        {"size": 1, "colour": "a\0b"},
    ]
    for input_ in inputs:
        answer = send(client, input_, "small")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith("/input")


def test_feedback_is_refused_when_a_number_is_not_finite(client):
    publish(services_of(client), "fruit")
    for number in ["NaN", "Infinity", "1e400"]:
        body = '{"input": {"size": N}, "label": "small"}'.replace("N", number)
        answer = client.post("/v1/models/fruit/feedback", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422


def test_feedback_is_not_found_when_the_model_does_not_exist(client):
    assert send(client, {"size": 1}, "small").status_code == 404


def test_feedback_is_not_found_when_the_model_is_deleted_between_check_and_write(client):
    services = services_of(client)
    publish(services, "fruit")
    with services.database.session(read_only=True) as session:
        model, version = resolve(session, DEFAULT_PROJECT, "fruit")
    row = checked(services.inference, model, version, FeedbackCreate(input={"size": 1.5}, label="small"))
    assert client.delete("/v1/models/fruit").status_code == 204
    publish(services, "fruit")
    with pytest.raises(NotFound), services.database.transaction() as session:
        keep(session, DEFAULT_PROJECT, "fruit", row)
    assert kept(client) == []


def test_feedback_waits_for_no_other_writer_when_it_is_refused(client):
    services = services_of(client)
    publish(services, "fruit")
    with services.database.transaction() as session:
        session.execute(text("SELECT 1"))  # takes SQLite's one write lock
        assert send(client, {"size": "big"}, "small").status_code == 422
