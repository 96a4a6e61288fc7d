"""Every route with every kind of credential, on both databases: nothing answers whom it should not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from app.db import utc_now
from app.ids import new_id
from app.main import create_app
from app.security import DEFAULT_PROJECT, SCOPES, Scope, create_key
from app.settings import Settings
from app.tables import ApiKey, Project
from tests.app.adapted import services_of
from tests.app.routes import Endpoint, endpoints, send

#: Content with any key: they show no data but the project's own use.
ANY_KEY = {"/v1/strategies", "/v1/encoders", "/v1/usage"}

#: The scope that a resource is under, by the first part of its path.
SCOPE_OF: dict[str, set[Scope]] = {
    "datasets": {"datasets"},
    "jobs": {"jobs"},
    "models": {"models", "predict"},
    "meta-learners": {"models"},
    "keys": {"admin"},
    "metrics": {"admin"},
    "v2": {"predict"},
}


def made_key(client: TestClient, *scopes: str, project_id: str = DEFAULT_PROJECT, **values: Any) -> str:
    """The Authorization header of a new key."""
    with services_of(client).database.transaction() as session:
        row, token = create_key(session, project_id=project_id, name="k", scopes=scopes or SCOPES)
        for name, value in values.items():
            setattr(session.get_one(ApiKey, row.id), name, value)
    return f"Bearer {token}"


def bad_credentials(client: TestClient) -> dict[str, str | None]:
    """Authorization headers that open nothing, by what is wrong with them."""
    good = made_key(client)
    return {
        "none": None,
        "another scheme": "Basic dTpw",
        "malformed": "Bearer mg_nonsense",
        "unknown key id": f"Bearer mg_{'0' * 32}_{'A' * 43}",
        "wrong secret": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "revoked": made_key(client, revoked_at=utc_now()),
        "expired": made_key(client, expires_at=datetime.now(UTC) - timedelta(seconds=1)),
    }


def guarded(app: FastAPI) -> list[Endpoint]:
    return [endpoint for endpoint in endpoints(app) if not endpoint.is_public]


def test_every_route_is_found_when_the_application_is_walked(client):
    documented = {
        (method.upper(), path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    found = {(endpoint.method, endpoint.path) for endpoint in endpoints(client.app)}
    assert documented
    assert documented <= found
    assert ("GET", "/docs") in found


def test_every_route_requires_the_scope_of_its_resource_unless_it_is_public(client):
    for endpoint in guarded(client.app):
        scopes = {requirement.scope for requirement in endpoint.requirements}
        assert len(scopes) == 1, f"{endpoint} wants exactly one require(...), and has {scopes}"
        (scope,) = scopes
        if scope is None:
            assert endpoint.path in ANY_KEY, f"{endpoint} is content with any key"
        else:
            resource = endpoint.path.removeprefix("/v1/").strip("/").partition("/")[0]
            assert scope in SCOPE_OF.get(resource, {scope}), str(endpoint)


def test_every_guarded_route_answers_401_when_the_credential_is_bad(client):
    for what, header in bad_credentials(client).items():
        for endpoint in guarded(client.app):
            answer = send(client, endpoint, header)
            assert answer.status_code == 401, f"{endpoint} with a credential that is {what}: {answer.status_code}"
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="metagraft"')
            assert answer.json()["code"] == "unauthorized"


def test_every_guarded_route_answers_403_when_the_key_has_another_scope(client):
    headers = {scope: made_key(client, scope) for scope in SCOPES}
    for endpoint in guarded(client.app):
        (scope,) = {requirement.scope for requirement in endpoint.requirements}
        for held in SCOPES:
            answer = send(client, endpoint, headers[held])
            if scope in {None, held}:
                assert answer.status_code not in {401, 403}, f"{endpoint} with {held}: {answer.text}"
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope"), f"{endpoint} with {held}"


@pytest.mark.parametrize("project", ["its own", "another"])
def test_every_guarded_route_names_nothing_when_the_key_is_good_and_the_id_is_not(client, project: str):
    project_id = DEFAULT_PROJECT
    if project == "another":
        project_id = new_id("prj")
        with services_of(client).database.transaction() as session:
            session.add(Project(id=project_id, name="another"))
    header = made_key(client, project_id=project_id)
    for endpoint in guarded(client.app):
        answer = send(client, endpoint, header)
        assert answer.status_code < 500, f"{endpoint}: {answer.text}"
        if endpoint.parameters:
            assert answer.status_code >= 400, f"{endpoint} found what does not exist: {answer.text}"


def test_public_routes_answer_whatever_the_credential_is(client):
    public = [endpoint for endpoint in endpoints(client.app) if endpoint.is_public and not endpoint.parameters]
    health = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert health | {"/docs", "/openapi.json"} <= {endpoint.path for endpoint in public}
    for header in bad_credentials(client).values():
        for endpoint in public:
            assert send(client, endpoint, header).status_code == 200, str(endpoint)


def test_route_without_a_requirement_is_noticed_wherever_it_is_added(settings):
    app = create_app(settings)
    router, inner = APIRouter(), FastAPI()

    @router.get("/included/{name}")
    def included(name: str) -> str:
        return name

    @inner.post("/inside")
    def inside() -> str:
        return "inside"

    app.include_router(router, prefix="/v1/rogue")
    app.mount("/mounted", inner)
    app.mount("/static", PlainTextResponse("anything"))
    rogue = {str(endpoint) for endpoint in guarded(app) if not endpoint.requirements}
    generated = {f"GET /mounted{path}" for path in ("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc")}
    assert rogue == {
        "GET /v1/rogue/included/{name}", "POST /mounted/inside", "GET /static/{anything}", *generated,
    }  # fmt: skip
    with TestClient(app) as client:
        made_key(client)
        open_ones = {str(endpoint) for endpoint in guarded(app) if send(client, endpoint, None).status_code != 401}
    assert open_ones == rogue


def test_metrics_are_open_while_the_service_is(client):
    assert client.get("/metrics").status_code == 200


def test_metrics_want_the_scope_admin_or_their_token_once_a_key_exists(settings):
    token = "scrape-me-0123456789"
    with TestClient(create_app(settings.model_copy(update={"metrics_token": token}))) as client:
        admin, other = made_key(client, "admin"), made_key(client, "predict")
        asked = {
            "": 401,
            f"Bearer {token}x": 401,
            f"Basic {token}": 401,
            f"Bearer {token}": 200,
            admin: 200,
            other: 403,
        }
        for header, status in asked.items():
            answer = client.get("/metrics", headers={"Authorization": header} if header else {})
            assert answer.status_code == status, header
        assert client.get("/v1/usage", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_metrics_take_no_empty_token(client):
    made_key(client)
    for header in ("Bearer", "Bearer ", ""):
        assert client.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_metrics_go_on_through_an_outage_for_whoever_might_read_them_before(tmp_path):
    token = "scrape-me-0123456789"
    away = Settings(
        data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none", broker_url="redis://127.0.0.1:1/0",
        warm_up=False, metrics_token=token,
    )  # fmt: skip
    with TestClient(create_app(away)) as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/usage").status_code == 503
        client.app.state.was_open = False  # type: ignore[attr-defined]
        assert client.get("/metrics").status_code == 503
        assert client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_refusal_is_remembered_for_an_outage(client):
    client.get("/metrics")
    assert client.app.state.was_open
    made_key(client)
    client.get("/metrics")
    assert not client.app.state.was_open
