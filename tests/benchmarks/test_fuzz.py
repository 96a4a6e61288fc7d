"""The short forms of `make fuzz`: no file makes the service fail. And the audits see it where one does."""

import random

import httpx
import pytest

from benchmarks.fuzz import mutations, uploads
from benchmarks.fuzz.__main__ import SCENARIOS
from benchmarks.fuzz.attacks.cases import Attack, Harmless
from benchmarks.fuzz.mutators import MUTATORS

URL = "http://metagraft.test"


@pytest.mark.parametrize("scenario", ["attacks", "mutations"])
def test_short_form_reaches_what_is_required(scenario: str) -> None:
    assert [figure for figure in SCENARIOS[scenario]("sqlite", short=True) if not figure.reached] == []


def answering(status: int, body: object, media_type: str = "application/problem+json") -> httpx.Client:
    """A client of a service that has this one answer."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body, headers={"Content-Type": media_type})

    return httpx.Client(base_url=URL, transport=httpx.MockTransport(answer))


ATTACK = Attack("some", lambda: b"x", "bad_json", "a.jsonl", row=3)
ITEM = {"code": "bad_json", "row": 3, "column": None, "pointer": None}
GOOD = {"code": "bad_rows", "errors": [ITEM]}


def audited(client: httpx.Client) -> uploads.Audit:
    audit = uploads.Audit()
    with client:
        list(uploads.send_attacks(client, [ATTACK], audit))
    return audit


def test_audit_of_attacks_is_content_with_the_right_problem() -> None:
    audit = audited(answering(422, GOOD))
    assert (audit.refused, audit.named, audit.places, audit.server_errors, audit.wrong) == (1, 1, 1, 0, [])


@pytest.mark.parametrize(
    ("status", "body", "media_type"),
    [
        (500, GOOD, "application/problem+json"),
        (201, {"id": "ds_1"}, "application/json"),
        (400, GOOD, "application/problem+json"),
        (422, GOOD, "application/json"),
        (422, {"code": "bad_rows", "errors": []}, "application/problem+json"),
        (422, [], "application/problem+json"),
    ],
)
def test_audit_of_attacks_sees_another_answer(status: int, body: object, media_type: str) -> None:
    audit = audited(answering(status, body, media_type))
    assert (audit.refused, audit.server_errors, len(audit.wrong)) == (0, int(status >= 500), 1)


def test_audit_of_attacks_sees_another_row() -> None:
    audit = audited(answering(422, {"code": "bad_rows", "errors": [ITEM | {"row": 4}]}))
    assert (audit.refused, audit.named, len(audit.wrong)) == (1, 0, 1)


def test_audit_of_harmless_files_sees_a_refusal_and_a_wrong_count() -> None:
    harmless = Harmless("some", lambda: b"x", "a.csv", 2, {"a": 2})
    audit = uploads.Audit()
    for status, rows in ((422, 2), (201, 3), (201, 2)):
        with answering(status, {"n_examples": rows, "classes": {"a": 2}}) as client:
            list(uploads.send_harmless(client, [harmless], audit))
    assert (audit.accepted, len(audit.wrong)) == (1, 2)


def test_audit_of_mutations_sees_what_must_not_be() -> None:
    answers = mutations.Answers()
    problem = {"code": "bad_rows", "status": 422}
    for status, body in ((422, problem), (422, {"status": 422}), (500, problem), (201, {})):
        with answering(status, body) as client:
            mutations.send(client, 1, answers)
    assert (answers.server_errors, answers.no_problems, answers.hung, len(answers.wrong)) == (1, 1, 0, 2)


@pytest.mark.parametrize(("error", "counted"), [(httpx.ReadTimeout, "hung"), (httpx.ReadError, "broken_off")])
def test_audit_of_mutations_sees_silence(error: type[httpx.TransportError], counted: str) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error("no such luck")

    answers = mutations.Answers()
    with httpx.Client(base_url=URL, transport=httpx.MockTransport(answer)) as client:
        mutations.send(client, 1, answers)
    assert (getattr(answers, counted), len(answers.wrong)) == (1, 1)


def test_mutation_is_a_function_of_its_number() -> None:
    assert [mutations.mutation(number) for number in range(40)] == [mutations.mutation(number) for number in range(40)]
    assert len({mutations.mutation(number).body for number in range(200)}) > 190


@pytest.mark.parametrize("mutator", dict.fromkeys(MUTATORS))
def test_mutator_takes_anything_and_changes_something(mutator) -> None:
    for number in range(20):
        assert isinstance(mutator(random.Random(number), b""), bytes)
    data = bytes(range(256)) * 2
    assert any(mutator(random.Random(number), data) != data for number in range(20))


def test_replay_writes_the_request_that_was_sent(tmp_path) -> None:
    file = tmp_path / "body"
    mutations._replay(7, file)
    assert file.read_bytes() == mutations.mutation(7).body
