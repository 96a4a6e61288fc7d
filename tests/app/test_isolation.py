"""Two projects side by side: neither sees, names or changes anything of the other, by whatever route."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.dependencies import Services
from app.ids import new_id
from app.security import DEFAULT_PROJECT, SCOPES, create_key
from app.tables import Job, MetaLearner
from tests.app.adapted import insert_job, other_project, publish, services_of
from tests.app.routes import Endpoint, endpoints, send
from tests.jobs import csv

MODEL = "fruit"
CLASSES = ("marker-low", "marker-high")

#: What exists nowhere, in the form of what does.
NOWHERE = {
    "dataset_id": "ds_" + "0" * 32, "job_id": "job_" + "0" * 32, "meta_learner_id": "ml_" + "0" * 32,
    "key_id": "key_" + "0" * 32, "name": "nowhere", "alias": "nobody", "number": "1", "row": "1",
}  # fmt: skip

TENSORS = {"inputs": [{"name": "size", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
#: Good bodies, so that a request gets as far as looking for what its path names.
BODIES: dict[str, dict[str, Any]] = {
    "PUT /v1/models/{name}/aliases/{alias}": {"version": 1},
    "POST /v1/models/{name}/feedback": {"input": {"size": 1.0}, "label": "small"},
    "POST /v1/models/{name}/predict": {"inputs": [{"size": 1.0}]},
    "POST /v1/models/{name}/versions/{number}/predict": {"inputs": [{"size": 1.0}]},
    "POST /v2/models/{name}/infer": TENSORS,
    "POST /v2/models/{name}/versions/{number}/infer": TENSORS,
}


@dataclass
class Owner:
    """A project with one of everything, and a key with every scope."""

    project_id: str
    authorization: str
    values: dict[str, str] = field(default_factory=dict)
    """Path parameters by name."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": self.authorization}


def _key(services: Services, project_id: str) -> tuple[str, str]:
    with services.database.transaction() as session:
        key, token = create_key(session, project_id=project_id, name="marker", scopes=SCOPES)
        return key.id, f"Bearer {token}"


def _upload(client: Any, owner: Owner, data: bytes) -> Any:
    files = {"file": ("rows.csv", data)}
    return client.post("/v1/datasets", files=files, data={"name": "marker"}, headers=owner.headers)


def _furnish(client: Any, owner: Owner, model: str, data: bytes) -> None:
    services = services_of(client)
    owner.values |= {"name": model, "number": "1", "row": "1", "alias": "champion"}
    owner.values["dataset_id"] = _upload(client, owner, data).json()["id"]
    publish(services, model, project_id=owner.project_id)
    alias = f"/v1/models/{model}/aliases/champion"
    assert client.put(alias, json={"version": 1}, headers=owner.headers).status_code == 201
    blob = services.storage.put_bytes(b'{"row": 1}\n')
    with services.database.transaction() as session:
        spec = {"dataset": owner.values["dataset_id"], "model": model, "version": 1}
        job = insert_job(session, owner.project_id, "batch_predict", "succeeded", spec)
        job.result = {"rows": 1, "errors": 0, "download": f"/v1/jobs/{job.id}/result", "blob": blob}
        owner.values["job_id"] = job.id
        owner.values["meta_learner_id"] = _meta_learner(session, owner)


def _meta_learner(session: Any, owner: Owner) -> str:
    job: Job = insert_job(session, owner.project_id, "meta_train", "succeeded", {})
    row = MetaLearner(
        id=new_id("ml"), project_id=owner.project_id, job_id=job.id, name="marker", modality="tabular",
        task="classification", encoder="table", sources=[], card={}, artifact="0" * 64, size_bytes=1,
    )  # fmt: skip
    session.add(row)
    return row.id


@pytest.fixture
def owners(client) -> tuple[Owner, Owner]:
    """Two projects: the second has a key and nothing else yet."""
    services = services_of(client)
    found = []
    for project_id in (DEFAULT_PROJECT, other_project(services)):
        key_id, authorization = _key(services, project_id)
        found.append(Owner(project_id, authorization, {"key_id": key_id}))
    first, second = found
    _furnish(client, first, MODEL, csv(classes=CLASSES))
    return first, second


def _about_one_thing(client: Any) -> list[Endpoint]:
    """Endpoints with something of a project in their path, all of it known to this test."""
    named = [endpoint for endpoint in endpoints(client.app) if endpoint.parameters and not endpoint.is_public]
    assert named
    return [endpoint for endpoint in named if set(endpoint.parameters) <= set(NOWHERE)]


def _ask(client: Any, endpoint: Endpoint, owner: Owner, values: dict[str, str]) -> Any:
    body = BODIES.get(str(endpoint))
    extra = {} if body is None else {"json": body}
    return send(client, endpoint, owner.authorization, url=endpoint.url(values), **extra)


def _told(answer: Any, values: dict[str, str]) -> dict[str, Any]:
    """What an answer tells, apart from the names that the client itself has sent."""
    problem = answer.json()
    text = json.dumps({key: problem[key] for key in ("status", "code", "title", "detail", "retryable", "errors")})
    for name in sorted(values, key=lambda name: -len(values[name])):
        if len(values[name]) > 3:
            text = text.replace(values[name], f"<{name}>")
    told: dict[str, Any] = json.loads(text)
    return told


def _seen(client: Any, owner: Owner) -> dict[str, bytes]:
    """Everything that the owner can read of its own things."""
    reading = [endpoint for endpoint in _about_one_thing(client) if endpoint.method == "GET"]
    seen = {}
    for endpoint in reading:
        answer = _ask(client, endpoint, owner, owner.values)
        if "image" not in endpoint.path:  # the dataset is a table
            assert answer.status_code == 200, f"{endpoint}: {answer.text}"
        seen[str(endpoint)] = answer.content if answer.status_code == 200 else b""
    return seen


def test_everything_of_another_project_is_as_if_it_did_not_exist(client, owners):
    first, second = owners
    before = _seen(client, first)
    for endpoint in _about_one_thing(client):
        foreign = _ask(client, endpoint, second, first.values)
        nowhere = _ask(client, endpoint, second, NOWHERE)
        assert foreign.status_code == 404, f"{endpoint}: {foreign.text}"
        assert _told(foreign, first.values) == _told(nowhere, NOWHERE), str(endpoint)
    assert _seen(client, first) == before


def test_lists_show_nothing_of_another_project(client, owners):
    first, second = owners
    secrets = [*(first.values[name] for name in first.values if name.endswith("_id")), "marker-low", MODEL]
    lists = [endpoint for endpoint in endpoints(client.app) if endpoint.method == "GET" and not endpoint.parameters]
    for endpoint in lists:
        answer = send(client, endpoint, second.authorization)
        if endpoint.path == "/metrics":
            continue  # the operator's view of the whole service
        assert not [secret for secret in secrets if f'"{secret}"' in answer.text], str(endpoint)


def test_usage_counts_nothing_of_another_project(client, owners):
    first, second = owners
    mine, other = (client.get("/v1/usage", headers=owner.headers).json() for owner in (first, second))
    assert [mine[measure]["used"] > 0 for measure in ("bytes", "rows", "models")] == [True, True, True]
    assert [other[measure]["used"] for measure in ("bytes", "rows", "jobs", "models")] == [0, 0, 0, 0]
    assert (mine["project"], other["project"]) == ("default", "another")


def _jobs(values: dict[str, str], own_dataset: str) -> dict[str, dict[str, Any]]:
    """Submissions that name one thing of `values`, by what it is."""
    dataset, learner, model = values["dataset_id"], values["meta_learner_id"], values["name"]
    adapt = {"kind": "adapt", "model": "m", "strategy": "auto"}
    return {
        "target": adapt | {"dataset": dataset},
        "source": adapt | {"dataset": own_dataset, "sources": [dataset]},
        "meta-learner": adapt | {"dataset": own_dataset, "meta_learner": learner},
        "source of meta-training": {"kind": "meta_train", "name": "m", "sources": [dataset]},
        "rows to predict": {"kind": "batch_predict", "model": f"{MODEL}-of-mine", "dataset": dataset},
        "model": {"kind": "batch_predict", "model": model, "dataset": own_dataset},
        "model by number": {"kind": "batch_predict", "model": f"{model}@1", "dataset": own_dataset},
        "model by alias": {"kind": "batch_predict", "model": f"{model}@champion", "dataset": own_dataset},
    }


def test_job_cannot_name_what_is_of_another_project(client, owners):
    first, second = owners
    own = _upload(client, second, csv(seed=7)).json()["id"]
    publish(services_of(client), f"{MODEL}-of-mine", project_id=second.project_id)
    foreign, nowhere = _jobs(first.values, own), _jobs(NOWHERE, own)
    for what in foreign:
        refused = client.post("/v1/jobs", json=foreign[what], headers=second.headers)
        unknown = client.post("/v1/jobs", json=nowhere[what], headers=second.headers)
        assert (refused.status_code, unknown.status_code) == (422, 422), what
        assert refused.json()["code"].endswith("_not_found"), what
        assert _told(refused, first.values) == _told(unknown, NOWHERE), what
    assert client.get("/v1/jobs?state=queued", headers=second.headers).json()["items"] == []


def test_names_and_contents_may_be_equal_in_two_projects(client, owners):
    first, second = owners
    _furnish(client, second, MODEL, csv(classes=CLASSES))
    assert second.values["dataset_id"] != first.values["dataset_id"]
    publish(services_of(client), MODEL, project_id=second.project_id)
    predict = f"/v1/models/{MODEL}/predict"
    versions = [
        client.post(predict, json={"inputs": [{"size": 1.0}]}, headers=owner.headers).json()["version"]
        for owner in (first, second)
    ]
    assert versions == [1, 2]
    before = _seen(client, first)
    for path in (f"/v1/models/{MODEL}/aliases/champion", f"/v1/models/{MODEL}"):
        assert client.delete(path, headers=second.headers).status_code == 204
    dataset = f"/v1/datasets/{second.values['dataset_id']}"
    assert client.delete(dataset, headers=second.headers).status_code == 204
    assert _seen(client, first) == before


def test_idempotency_key_is_each_projects_own(client, owners):
    made = [
        client.post(
            "/v1/keys", json={"name": f"of {n}", "scopes": ["jobs"]}, headers=owner.headers | {"Idempotency-Key": "k"}
        )
        for n, owner in enumerate(owners)
    ]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["id"] != made[1].json()["id"]
    assert "Idempotency-Replayed" not in made[1].headers


def test_page_token_of_another_project_leads_to_nothing_of_it(client, owners):
    first, second = owners
    for seed in (1, 2, 3):
        _upload(client, first, csv(seed=seed))
    page = client.get("/v1/datasets?page_size=1", headers=first.headers).json()
    url = f"/v1/datasets?page_token={page['next_page_token']}"
    assert client.get(url, headers=second.headers).json() == {"items": [], "next_page_token": None}
    assert len(client.get(url, headers=first.headers).json()["items"]) == 3
