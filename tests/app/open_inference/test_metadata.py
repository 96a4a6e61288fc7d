"""What the protocol tells of the server and of models, to whom, and how ready they are."""

from fastapi.testclient import TestClient

from app.main import create_app
from app.security import DEFAULT_PROJECT, create_key
from tests.app.adapted import other_project, publish, services_of, table_outcome
from tests.app.authorised import bearer, new_key
from tests.app.open_inference.calls import fruit, infer


def test_server_tells_its_name_version_and_extensions(client):
    told = client.get("/v2").json()
    assert told == {"name": "metagraft", "version": client.app.version, "extensions": ["binary_tensor_data"]}


def test_server_is_live_and_ready_without_a_key(client):
    new_key(client)
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_server_is_not_ready_when_it_cannot_serve(settings):
    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    with TestClient(create_app(away)) as client:
        answer = client.get("/v2/health/ready")
        live = client.get("/v2/health/live")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["error"] == answer.json()["detail"]
    assert live.status_code == 200


def test_model_tells_its_tensors_and_versions(client):
    for _ in range(2):
        publish(services_of(client), "fruit")
    told = client.get("/v2/models/fruit").json()
    assert (told["name"], told["versions"], told["platform"]) == ("fruit", ["1", "2"], "metagraft")
    inputs = {each["name"]: (each["datatype"], each["shape"]) for each in told["inputs"]}
    assert inputs == {"size": ("FP64", [-1]), "colour": ("BYTES", [-1])}
    assert [(each["name"], each["datatype"], each["shape"]) for each in told["outputs"]] == [
        ("label", "BYTES", [-1]),
        ("probability", "FP64", [-1]),
        ("probabilities", "FP64", [-1, 2]),
        ("prediction_set", "BYTES", [-1]),
        ("ood_score", "FP64", [-1]),
        ("abstain", "BOOL", [-1]),
    ]
    assert client.get("/v2/models/fruit/versions/1").json() == told


def test_answer_has_the_tensors_that_the_metadata_names(client):
    for task in ("classification", "regression"):
        publish(services_of(client), task, table_outcome(task), task=task)
        promised = client.get(f"/v2/models/{task}").json()["outputs"]
        answered = infer(client, fruit(), task).json()["outputs"]
        told = [(each["name"], each["datatype"], [3, *each["shape"][1:]]) for each in promised]
        assert told == [(each["name"], each["datatype"], each["shape"]) for each in answered]


def test_model_is_ready_when_its_version_can_be_loaded(client):
    publish(services_of(client), "fruit")
    for path in ("fruit/ready", "fruit/versions/1/ready"):
        assert client.get(f"/v2/models/{path}").json() == {"name": "fruit", "ready": True}
    for path in ("none/ready", "fruit/versions/2/ready", "none", "fruit/versions/2"):
        assert client.get(f"/v2/models/{path}").status_code == 404


def test_index_lists_the_models_of_the_keys_project(client):
    services = services_of(client)
    for name in ("b", "a", "b"):
        publish(services, name)
    publish(services, "foreign", project_id=other_project(services))
    headers = bearer(new_key(client))
    told = client.post("/v2/repository/index", headers=headers).json()
    assert [(each["name"], each["version"], each["state"]) for each in told] == [
        ("a", "1", "READY"),
        ("b", "2", "READY"),
    ]
    assert client.post("/v2/repository/index", json={"ready": True}, headers=headers).json() == told
    assert client.post("/v2/repository/index", json={"ready": "x"}, headers=headers).status_code == 422


def test_problem_of_the_protocol_has_its_error_and_others_have_none(client):
    with services_of(client).database.transaction() as session:
        _, token = create_key(session, project_id=DEFAULT_PROJECT, name="k", scopes=["models"])
    for path, headers, status in [
        ("/v2", {}, 401),
        ("/v2/models/x", bearer(token), 403),
        ("/v2/nowhere", {}, 404),
        ("/v2/models/x/infer", {}, 405),
    ]:
        answer = client.get(path, headers=headers)
        assert answer.status_code == status, path
        assert answer.json()["error"] == answer.json()["detail"]
    for path in ("/v1/models", "/v20", "/nowhere"):
        assert "error" not in client.get(path).json()


def test_calls_of_the_protocol_are_counted_like_all_others(settings):
    with TestClient(create_app(settings.model_copy(update={"requests_per_minute": 2}))) as client:
        publish(services_of(client), "fruit")
        answers = [client.get("/v1/usage"), infer(client, fruit()), infer(client, fruit())]
        health = client.get("/v2/health/live")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]
    assert health.status_code == 200
