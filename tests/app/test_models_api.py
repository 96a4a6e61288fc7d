"""Models and versions over HTTP, on both databases."""

import pytest

from app.ids import new_id
from app.security import DEFAULT_PROJECT
from app.tables import Feedback, MetaLearner
from tests.app.adapted import insert_job, other_project, publish, services_of


@pytest.fixture
def model(client):
    """The name of a model with versions 1 and 2."""
    publish(services_of(client), "fruit")
    publish(services_of(client), "fruit")
    return "fruit"


def test_model_shows_its_latest_version_and_aliases(client, model):
    client.put(f"/v1/models/{model}/aliases/champion", json={"version": 1})
    shown = client.get(f"/v1/models/{model}").json()
    assert shown["latest_version"] == 2
    assert shown["aliases"] == {"champion": 1, "latest": 2}
    assert (shown["modality"], shown["task"]) == ("tabular", "classification")


def test_models_are_listed_newest_first_page_by_page(client):
    for name in ("a", "b", "c"):
        publish(services_of(client), name)
    first = client.get("/v1/models", params={"page_size": 2}).json()
    second = client.get("/v1/models", params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    assert [model["name"] for model in first["items"] + second["items"]] == ["c", "b", "a"]
    assert second["next_page_token"] is None


def test_version_shows_report_lineage_and_size(client, model):
    version = client.get(f"/v1/models/{model}/versions/1").json()
    assert version["number"] == 1
    assert version["job_id"].startswith("job_")
    assert version["strategy"] == "target_only"
    assert version["report"]["timing"].keys() >= {"encode_s", "fit_s", "total_s"}
    assert version["lineage"] == {"seed": 0}
    assert version["size_bytes"] > 0


def test_versions_are_listed_newest_first_page_by_page(client, model):
    publish(services_of(client), model)
    url = f"/v1/models/{model}/versions"
    first = client.get(url, params={"page_size": 2}).json()
    second = client.get(url, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    assert [version["number"] for version in first["items"] + second["items"]] == [3, 2, 1]


def test_versions_refuse_a_page_token_that_is_not_theirs(client, model):
    for token in ["nr_" + "f" * 32, "job_" + "0" * 32, "nr_1", "x\0"]:
        assert client.get(f"/v1/models/{model}/versions", params={"page_token": token}).status_code == 422


def test_model_is_a_client_error_when_it_does_not_exist(client, model):
    for path in ["fruits", "%00", "x" * 300, "fruit/versions/3", "fruit/aliases/none"]:
        assert client.get(f"/v1/models/{path}").status_code in {404, 422}


def test_version_is_a_client_error_when_its_number_is_odd(client, model):
    for number in ["0", "-1", str(2**31), str(2**63), "x", "9" * 5000, "1.5"]:
        assert client.get(f"/v1/models/{model}/versions/{number}").status_code in {404, 422}


def test_model_of_another_project_is_not_found(client):
    services = services_of(client)
    publish(services, "secret", project_id=other_project(services))
    for path in ("", "/versions", "/versions/1", "/versions/1/export", "/aliases/latest", "/aliases/latest/history"):
        assert client.get(f"/v1/models/secret{path}").status_code == 404
    for path in ("/predict", "/versions/1/predict"):
        assert client.post(f"/v1/models/secret{path}", json={"inputs": [{"size": 1}]}).status_code == 404
    assert client.delete("/v1/models/secret").status_code == 404
    assert client.get("/v1/models").json()["items"] == []


def test_delete_version_moves_latest_back_and_never_gives_the_number_again(client, model):
    assert client.delete(f"/v1/models/{model}/versions/2").status_code == 204
    assert client.get(f"/v1/models/{model}").json()["aliases"] == {"latest": 1}
    assert client.post(f"/v1/models/{model}/predict", json={"inputs": [{"size": 1}]}).json()["version"] == 1
    assert publish(services_of(client), model) == 3


def test_delete_version_is_refused_while_an_alias_names_it(client, model):
    client.put(f"/v1/models/{model}/aliases/champion", json={"version": 1})
    answer = client.delete(f"/v1/models/{model}/versions/1")
    assert (answer.status_code, answer.json()["code"]) == (409, "version_in_use")
    assert client.delete(f"/v1/models/{model}").status_code == 409


def test_delete_version_leaves_an_empty_model_that_answers_404(client):
    publish(services_of(client), "single")
    assert client.delete("/v1/models/single/versions/1").status_code == 204
    assert client.get("/v1/models/single").json()["latest_version"] is None
    assert client.post("/v1/models/single/predict", json={"inputs": [{"size": 1}]}).status_code == 404


def test_delete_model_removes_everything_of_it(client, model):
    client.post(f"/v1/models/{model}/feedback", json={"input": {"size": 1}, "label": "small"})
    assert client.delete(f"/v1/models/{model}").status_code == 204
    assert client.get(f"/v1/models/{model}").status_code == 404
    with services_of(client).database.session(read_only=True) as session:
        assert session.query(Feedback).count() == 0
    assert publish(services_of(client), model) == 1


def test_delete_model_is_refused_while_a_job_adapts_it(client, model):
    with services_of(client).database.transaction() as session:
        insert_job(session, DEFAULT_PROJECT, "adapt", "running", {"model": model})
    answer = client.delete(f"/v1/models/{model}")
    assert (answer.status_code, answer.json()["code"]) == (409, "model_in_use")


@pytest.fixture
def meta_learner(client):
    """The id of a meta-learner."""
    with services_of(client).database.transaction() as session:
        job = insert_job(session, DEFAULT_PROJECT, "meta_train", "succeeded", {})
        row = MetaLearner(id=new_id("ml"), project_id=DEFAULT_PROJECT, job_id=job.id, name="m", modality="text")
        row.task, row.encoder, row.sources, row.card = "classification", "e", ["ds_1"], {"gain": [0.1]}
        row.artifact, row.size_bytes = "0" * 64, 1
        session.add(row)
        return row.id


def test_meta_learner_shows_its_card_and_sources(client, meta_learner):
    shown = client.get(f"/v1/meta-learners/{meta_learner}").json()
    assert shown["card"] == {"gain": [0.1]}
    assert shown["sources"] == ["ds_1"]
    assert [item["id"] for item in client.get("/v1/meta-learners").json()["items"]] == [meta_learner]


def test_meta_learner_is_deleted_when_no_job_names_it(client, meta_learner):
    assert client.delete(f"/v1/meta-learners/{meta_learner}").status_code == 204
    assert client.get(f"/v1/meta-learners/{meta_learner}").status_code == 404


@pytest.mark.parametrize("state", ["queued", "running"])
def test_meta_learner_is_kept_while_a_job_names_it(client, meta_learner, state):
    with services_of(client).database.transaction() as session:
        job = insert_job(session, DEFAULT_PROJECT, "adapt", state, {"meta_learner": meta_learner})
        job.lease_until = 4e9
        job.advanced_at = 4e9  # the sweeper leaves it alone
    assert client.delete(f"/v1/meta-learners/{meta_learner}").status_code == 409
