"""Keys over HTTP, on both databases. What every route wants of a key is in test_security_matrix.py."""

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select

from app.main import create_app
from app.security import DEFAULT_PROJECT, SCOPES, create_key, has_active_key, hash_secret
from app.tables import ApiKey
from tests.app.adapted import other_project, services_of


def add_key(client: TestClient, *scopes: str, project_id: str = DEFAULT_PROJECT, **values: Any) -> tuple[str, str]:
    """(id, key) of a new key, made as the command line makes it."""
    with services_of(client).database.transaction() as session:
        row, token = create_key(session, project_id=project_id, name="test", scopes=scopes or SCOPES, **values)
        return row.id, token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def change(client: TestClient, key_id: str, **values: Any) -> None:
    with services_of(client).database.transaction() as session:
        for name, value in values.items():
            setattr(session.get_one(ApiKey, key_id), name, value)


def test_service_needs_no_key_while_none_is_configured(client):
    assert client.get("/v1/keys").status_code == 200


def test_service_answers_401_with_a_challenge_once_a_key_exists(client):
    add_key(client)
    answer = client.get("/v1/keys")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="metagraft"'
    assert answer.json()["code"] == "unauthorized"


def test_key_opens_the_service_when_it_is_good(client):
    _, token = add_key(client)
    assert client.get("/v1/keys", headers=bearer(token)).status_code == 200


def test_credential_is_refused_when_it_is_malformed_or_unknown(client):
    add_key(client)
    for header in [
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        "Bearer mg_",
        "Bearer mg_" + "0" * 32 + "_" + "A" * 43,
        "Bearer mg_key_x_y",
        "Bearer " + "x" * 10_000,
        "Bearer mg_\x80\xff",
    ]:
        answer = client.get("/v1/keys", headers={"Authorization": header.encode("latin-1")})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_credential_is_refused_when_its_secret_is_wrong(client):
    _, token = add_key(client)
    assert client.get("/v1/keys", headers=bearer(token[:-1] + ("A" if token[-1] != "A" else "B"))).status_code == 401


def test_credential_is_refused_when_it_is_revoked_although_the_service_is_open(client):
    key_id, token = add_key(client)
    change(client, key_id, revoked_at=datetime.now(UTC))
    assert client.get("/v1/keys").status_code == 200
    assert client.get("/v1/keys", headers=bearer(token)).status_code == 401


def test_service_stays_closed_when_its_only_key_has_expired(client):
    key_id, token = add_key(client)
    change(client, key_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert client.get("/v1/keys", headers=bearer(token)).status_code == 401
    assert client.get("/v1/keys").status_code == 401


def test_service_needs_a_key_when_bound_beyond_loopback(settings):
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    with TestClient(create_app(exposed)) as client:
        assert client.get("/v1/keys").status_code == 401
        assert client.get("/healthz").status_code == 200


def test_key_is_forbidden_when_it_lacks_the_scope(client):
    _, token = add_key(client, "predict")
    answer = client.get("/v1/keys", headers=bearer(token))
    assert answer.status_code == 403
    assert answer.json()["code"] == "missing_scope"


def test_key_reads_strategies_and_encoders_whatever_its_scope(client):
    _, token = add_key(client, "jobs")
    assert client.get("/v1/strategies", headers=bearer(token)).status_code == 200
    assert client.get("/v1/encoders", headers=bearer(token)).status_code == 200


def test_create_shows_the_secret_once_and_stores_only_its_hash(client):
    created = client.post("/v1/keys", json={"name": "ci", "scopes": ["admin", "predict"]})
    assert created.status_code == 201
    token = created.json()["key"]
    secret = token.split("_", 2)[2]
    listed = client.get("/v1/keys", headers=bearer(token))
    assert secret not in listed.text
    assert listed.json()["items"][0]["scopes"] == ["admin", "predict"]
    with services_of(client).database.session(read_only=True) as session:
        assert session.scalars(select(ApiKey.secret_hash)).all() == [hash_secret(secret)]


def test_create_names_the_field_when_it_is_wrong(client):
    for body, pointer in [
        ({"name": "", "scopes": ["admin"]}, "/body/name"),
        ({"name": "a\0b", "scopes": ["admin"]}, "/body/name"),
        ({"name": "x", "scopes": []}, "/body/scopes"),
        ({"name": "x", "scopes": ["root"]}, "/body/scopes/0"),
        ({"name": "x", "scopes": ["admin"], "expires_at": "2001-01-01T00:00:00Z"}, "/body/expires_at"),
        ({"name": "x", "scopes": ["admin"], "expires_at": "9999-12-31T23:59:59-10:00"}, "/body/expires_at"),
        ({"name": "x", "scopes": ["admin"], "expires_at": "2100-01-01T00:00:00"}, "/body/expires_at"),
        ({"name": "x", "scopes": ["admin"], "project": "p"}, "/body/project"),
    ]:
        answer = client.post("/v1/keys", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer


def test_revoke_ends_a_key_at_once(client):
    _, admin = add_key(client)
    key_id, token = add_key(client, "predict")
    assert client.delete(f"/v1/keys/{key_id}", headers=bearer(admin)).status_code == 204
    assert client.delete(f"/v1/keys/{key_id}", headers=bearer(admin)).status_code == 204
    assert client.get("/v1/encoders", headers=bearer(token)).status_code == 401


def test_rotate_gives_a_second_key_that_lives_beside_the_first(client):
    key_id, token = add_key(client, "admin", "jobs")
    rotated = client.post(f"/v1/keys/{key_id}/rotate", headers=bearer(token))
    assert rotated.status_code == 201
    assert rotated.json()["scopes"] == ["admin", "jobs"]
    for either in (token, rotated.json()["key"]):
        assert client.get("/v1/keys", headers=bearer(either)).status_code == 200


def test_rotate_makes_one_key_when_its_request_is_repeated(client):
    key_id, token = add_key(client)
    headers = bearer(token) | {"Idempotency-Key": "k"}
    first, again = (client.post(f"/v1/keys/{key_id}/rotate", headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() | {"key": None}
    assert len(client.get("/v1/keys", headers=bearer(token)).json()["items"]) == 2


def test_rotate_is_refused_when_the_key_is_revoked(client):
    _, admin = add_key(client)
    key_id, _ = add_key(client)
    client.delete(f"/v1/keys/{key_id}", headers=bearer(admin))
    assert client.post(f"/v1/keys/{key_id}/rotate", headers=bearer(admin)).status_code == 409


def test_rotate_is_refused_when_the_key_has_expired(client):
    _, admin = add_key(client)
    key_id, _ = add_key(client, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    answer = client.post(f"/v1/keys/{key_id}/rotate", headers=bearer(admin))
    assert (answer.status_code, answer.json()["code"]) == (409, "key_expired")


def test_key_of_another_project_is_not_found(client):
    _, admin = add_key(client)
    foreign_id, foreign = add_key(client, project_id=other_project(services_of(client)))
    assert client.delete(f"/v1/keys/{foreign_id}", headers=bearer(admin)).status_code == 404
    assert client.post(f"/v1/keys/{foreign_id}/rotate", headers=bearer(admin)).status_code == 404
    assert [key["id"] for key in client.get("/v1/keys", headers=bearer(foreign)).json()["items"]] == [foreign_id]


def test_key_is_a_client_error_when_its_id_is_odd(client):
    for key_id in ["nope", "%00", "x" * 201, "%ED%A0%80", "../keys"]:
        assert 400 <= client.delete(f"/v1/keys/{key_id}").status_code < 500


def test_list_goes_through_all_keys_page_by_page(client):
    ids = [add_key(client)[0] for _ in range(4)]
    _, token = add_key(client)
    seen: list[str] = []
    query: dict[str, Any] = {"page_size": 2}
    while query:
        page = client.get("/v1/keys", params=query, headers=bearer(token)).json()
        seen += [key["id"] for key in page["items"]]
        query = {"page_size": 2, "page_token": page["next_page_token"]} if page["next_page_token"] else {}
    assert seen[1:] == ids[::-1]


def test_list_coerces_a_large_page_size_down(client):
    assert client.get("/v1/keys", params={"page_size": str(2**63)}).status_code == 200


def test_has_active_key_ignores_revoked_and_expired_keys(services):
    with services.database.transaction() as session:
        assert not has_active_key(session)
        past, _ = create_key(session, project_id=DEFAULT_PROJECT, name="old", scopes=["admin"])
        past.expires_at = datetime.now(UTC) - timedelta(days=1)
        gone, _ = create_key(session, project_id=DEFAULT_PROJECT, name="gone", scopes=["admin"])
        gone.revoked_at = datetime.now(UTC)
        session.flush()
        assert not has_active_key(session)
        create_key(session, project_id=DEFAULT_PROJECT, name="live", scopes=["admin"])
        assert has_active_key(session)
