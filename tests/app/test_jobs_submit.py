from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.ids import new_id
from app.jobs.publish import Artifact, publish_version
from app.main import create_app
from app.security import DEFAULT_PROJECT
from app.settings import Settings
from app.tables import MetaLearner
from tests.jobs import claimed, dataset_row, event_types, job_row, queued, submit


def _adapt(services: Services, **values: Any) -> dict[str, Any]:
    return {"kind": "adapt", "dataset": dataset_row(services).id, "model": "m", "strategy": "target_only"} | values


def _meta_learner(services: Services, **values: Any) -> MetaLearner:
    job_id = queued(services, kind="meta_train", queue="train")
    defaults: dict[str, Any] = {
        "id": new_id("ml"), "project_id": DEFAULT_PROJECT, "job_id": job_id, "name": "ml", "modality": "tabular",
        "task": "classification", "encoder": "table", "sources": [], "card": {}, "artifact": "0" * 64, "size_bytes": 1,
    }  # fmt: skip
    learner = MetaLearner(**defaults | values)
    with services.database.transaction() as session:
        session.add(learner)
    return learner


def _published(services: Services, name: str = "m", **dataset: Any) -> None:
    """A model with one version."""
    claim = claimed(services, queued(services, model=name))
    with services.database.transaction() as session:
        assert publish_version(
            session,
            claim,
            target=dataset_row(services, **dataset),
            artifact=Artifact(sha256="a" * 64, size_bytes=1),
            strategy="target_only",
            encoder="table",
            report={},
            lineage={},
        )


def test_submitting_queues_a_job_and_a_hint_when_the_request_is_good(client, services: Services):
    body = _adapt(services, seed=7)
    answer = client.post("/v1/jobs", json=body)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["progress"], job["attempt"]) == ("queued", "adapt", 0.0, 0)
    assert job["request"]["dataset"] == body["dataset"]
    assert (job["request"]["sources"], job["request"]["seed"]) == ([], 7)
    assert job["request"]["options"]["coverage"] == 0.9
    assert client.get(answer.headers["location"]).json() == job
    assert event_types(services.database, job["id"]) == ["queued"]
    assert services.hints.waiting("adapt") == 1


def test_submitting_uses_the_train_queue_when_meta_training(client, services: Services):
    job = submit(client, kind="meta_train", name="ml", sources=[dataset_row(services).id, dataset_row(services).id])
    assert job_row(services.database, job["id"]).queue == "train"
    assert services.hints.waiting("train") == 1


def test_sources_are_the_meta_learners_own_when_left_out(client, services: Services):
    source = dataset_row(services)
    target = dataset_row(services)
    learner = _meta_learner(services, sources=[source.id, target.id, new_id("ds")])
    job = submit(client, kind="adapt", dataset=target.id, model="m", strategy="metric", meta_learner=learner.id)
    assert job["request"]["sources"] == [source.id]


def test_sources_are_none_when_an_empty_list_is_given(client, services: Services):
    learner = _meta_learner(services, sources=[dataset_row(services).id])
    job = submit(client, **_adapt(services, strategy="init", meta_learner=learner.id, sources=[]))
    assert job["request"]["sources"] == []


UNKNOWN_DS = "ds_" + "0" * 32


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"dataset": UNKNOWN_DS}, "/dataset", "dataset_not_found"),
        ({"dataset": "ds_\u0000"}, "/body/adapt/dataset", "string_pattern_mismatch"),
        ({"dataset": None}, "/body/adapt/dataset", "string_type"),
        ({"sources": [UNKNOWN_DS]}, "/sources/0", "dataset_not_found"),
        ({"sources": ["x"] * 101}, "/body/adapt/sources", "too_long"),
        ({"meta_learner": "ml_" + "0" * 32}, "/meta_learner", "meta_learner_not_found"),
        ({"strategy": "metric"}, "/sources", "sources_needed"),
        ({"strategy": "init"}, "/meta_learner", "meta_learner_needed"),
        ({"strategy": "magic"}, "/body/adapt/strategy", "literal_error"),
        ({"model": "../etc"}, "/body/adapt/model", "string_pattern_mismatch"),
        ({"model": "-m"}, "/body/adapt/model", "string_pattern_mismatch"),
        ({"model": "m" * 101}, "/body/adapt/model", "string_pattern_mismatch"),
        ({"model": "m\n"}, "/body/adapt/model", "string_pattern_mismatch"),
        ({"seed": -1}, "/body/adapt/seed", "greater_than_equal"),
        ({"seed": 2**31}, "/body/adapt/seed", "less_than_equal"),
        ({"seed": 2**63}, "/body/adapt/seed", "less_than_equal"),
        ({"seed": 1.5}, "/body/adapt/seed", "int_type"),
        ({"seed": "1"}, "/body/adapt/seed", "int_type"),
        ({"unknown": 1}, "/body/adapt/unknown", "extra_forbidden"),
        ({"kind": "dance"}, "/body", "union_tag_invalid"),
        ({"options": {"unknown": 1}}, "/options/unknown", "unexpected_keyword_argument"),
        ({"options": {"coverage": 1.5}}, "/options/coverage", "less_than"),
        ({"options": {"encoder": "a\u0000b"}}, "/options/encoder", "value_error"),
        ({"options": {"encoder": "no-such-encoder"}}, "/options/encoder", "invalid_options"),
        ({"options": {"max_folds": 2**63}}, "/options/max_folds", "less_than_equal"),
        ({"options": 3}, "/body/adapt/options", "dict_type"),
    ],
)
def test_submitting_is_refused_when_something_is_wrong(
    client, services: Services, change: dict[str, Any], pointer: str, code: str
):
    answer = client.post("/v1/jobs", json=_adapt(services) | change)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (pointer, code) in [(item["pointer"], item["code"]) for item in problem["errors"]]
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"adapt","options":{"regularisation":NaN}}',
        b'{"kind":"adapt","options":{"regularisation":1e999}}',
        b'{"kind":"adapt","seed":' + b"9" * 5000 + b"}",
        b'{"kind":"adapt","\\ud800":1}',
        b'{"kind":"adapt","options":{"\\ud800":1}}',
        b'{"kind":"adapt","model":"\\ud800"}',
        b'{"kind":"meta_train","name":"\\ud800","sources":[]}',
        b'{"kind":"meta_train","name":"a\\u0000b","sources":["ds_00000000000000000000000000000000"]}',
        b"\xff\xfe",
        b"[" * 20000,
        b"null",
        b"",
    ],
)
def test_submitting_is_never_a_server_error_when_the_body_is_hostile(client, body: bytes):
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_every_problem_is_named_when_there_are_several(client, services: Services):
    target = dataset_row(services, classes={"only": 4})
    text = dataset_row(services, modality="text")
    body = _adapt(services, dataset=target.id, sources=[text.id, UNKNOWN_DS, text.id])
    items = client.post("/v1/jobs", json=body).json()["errors"]
    assert {(item["pointer"], item["code"]) for item in items} >= {
        ("/dataset", "too_few_classes"),
        ("/sources/0", "modality_mismatch"),
        ("/sources/1", "dataset_not_found"),
        ("/sources/2", "duplicate_source"),
    }


def test_submitting_is_refused_when_a_source_is_the_target(client, services: Services):
    target = dataset_row(services)
    body = _adapt(services, dataset=target.id, strategy="metric", sources=[target.id])
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "source_is_target")


def test_submitting_is_refused_when_the_meta_learner_is_of_another_task(client, services: Services):
    learner = _meta_learner(services, task="regression")
    answer = client.post("/v1/jobs", json=_adapt(services, strategy="init", meta_learner=learner.id))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/meta_learner")


def test_submitting_conflicts_when_the_model_is_of_another_modality(client, services: Services):
    _published(services, "taken", modality="text")
    answer = client.post("/v1/jobs", json=_adapt(services, model="taken"))
    assert (answer.status_code, answer.json()["code"]) == (409, "model_mismatch")


def test_meta_training_is_refused_when_the_sources_differ(client, services: Services):
    sources = [dataset_row(services).id, dataset_row(services, task="regression", classes={}).id]
    answer = client.post("/v1/jobs", json={"kind": "meta_train", "name": "x", "sources": sources})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/sources/1")


def test_meta_training_options_are_checked_when_nested(client, services: Services):
    body = {"kind": "meta_train", "name": "x", "sources": [dataset_row(services).id]}
    answer = client.post("/v1/jobs", json=body | {"options": {"episode": {"max_way": 1}}})
    assert answer.json()["errors"][0]["pointer"] == "/options/episode/max_way"


@pytest.mark.parametrize("ref", ["m", "m@1", "m@latest"])
def test_batch_predict_resolves_the_version_when_named(client, services: Services, ref: str):
    _published(services)
    job = submit(client, kind="batch_predict", model=ref, dataset=dataset_row(services).id)
    assert (job["request"]["model"], job["request"]["version"]) == ("m", 1)
    assert job["request"]["model_version"].startswith("mv_")


@pytest.mark.parametrize("ref", ["n", "m@2", "m@99999999999999999999", "m@nobody"])
def test_batch_predict_is_refused_when_there_is_no_such_version(client, services: Services, ref: str):
    _published(services)
    body = {"kind": "batch_predict", "model": ref, "dataset": dataset_row(services).id}
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/model")


def test_batch_predict_is_refused_when_the_modality_differs(client, services: Services):
    _published(services)
    body = {"kind": "batch_predict", "model": "m", "dataset": dataset_row(services, modality="text").id}
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "modality_mismatch")


def test_submitting_still_queues_when_the_broker_is_away(settings: Settings, services: Services):
    away = settings.model_copy(update={"broker_url": "redis+socket:///nowhere/valkey.sock"})
    with TestClient(create_app(away)) as client:
        job = submit(client, **_adapt(services))
    assert job["state"] == "queued"


@pytest.mark.parametrize("depth", [11, 300, 900])
def test_submitting_is_refused_when_the_options_are_nested_deeply(client, services: Services, depth: int):
    encoder: Any = "x"
    for _ in range(depth):
        encoder = [encoder]
    answer = client.post("/v1/jobs", json=_adapt(services, options={"encoder": encoder}))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/body/adapt/options"
