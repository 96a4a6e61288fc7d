"""Which names the service goes by, and which web pages may use it."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.hosts import split_host
from app.main import create_app
from app.settings import Settings
from tests.app.authorised import bearer, new_key

OWN = [
    "127.0.0.1", "127.0.0.1:8000", "localhost", "localhost:8000", "LOCALHOST:8000", "LocalHost.", "localhost.:80",
    "localhost:", "api.localhost:3000", "[::1]", "[::1]:8000", "::1", "[::ffff:127.0.0.1]:8000", "127.0.0.2",
    "127.1:80", "0.0.0.0:8000", "192.168.1.20:8000", "ip6-localhost", "testserver",
]  # fmt: skip
FOREIGN = ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "xn--80ak6aa92e.com", "api", "a_b"]
MALFORMED = [
    "",
    " ",
    "a b",
    "a:b",
    "[::1",
    "[::1]x",
    "[zz]",
    "a:1:2",
    "user@localhost",
    "localhost/x",
    "b\xe4r",
    "*",
    "a:999999",
]


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "metagraft.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


def status(client: TestClient, host: str) -> int:
    return client.get("/healthz", headers={b"Host": host.encode("latin-1")}).status_code


def test_service_on_loopback_answers_to_addresses_and_names_of_loopback(client: TestClient) -> None:
    assert {host: status(client, host) for host in OWN} == dict.fromkeys(OWN, 200)


def test_service_on_loopback_does_not_answer_to_another_name(client: TestClient) -> None:
    assert {host: status(client, host) for host in FOREIGN} == dict.fromkeys(FOREIGN, 421)
    answer = client.get("/v1/models", headers={"Host": "evil.example"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "untrusted_host"
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


def test_host_header_is_a_client_error_when_it_is_malformed(client: TestClient) -> None:
    assert {host: status(client, host) for host in MALFORMED} == dict.fromkeys(MALFORMED, 400)


def test_service_bound_elsewhere_answers_to_any_name(settings: Settings) -> None:
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    with TestClient(create_app(exposed)) as client:
        assert {status(client, host) for host in [*OWN, *FOREIGN, "metagraft_api:8000"]} == {200}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_named_hosts_and_loopback_are_all_that_is_answered_to(settings: Settings, host: str) -> None:
    named = settings.model_copy(update={"host": host, "trusted_hosts": "api.example.com, *.Inner.example"})
    with TestClient(create_app(named)) as client:
        good = [
            "API.example.com:443",
            "api.example.com.",
            "a.inner.example",
            "b.a.inner.example",
            "10.0.0.7:8000",
            "localhost",
        ]
        assert {name: status(client, name) for name in good} == dict.fromkeys(good, 200)
        bad = ["example.com", "xapi.example.com", "inner.example", "evilinner.example"]
        assert {name: status(client, name) for name in bad} == dict.fromkeys(bad, 421)


def test_any_host_is_answered_to_when_the_list_says_so(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"trusted_hosts": "*"}))) as client:
        assert status(client, "whatever.example") == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [("Example.COM.:8080", ("example.com", "8080")), ("[::1]:80", ("::1", "80")), ("a", ("a", "")), ("[a]", None)],
)
def test_host_header_is_split_into_name_and_port(header: str, expected: tuple[str, str] | None) -> None:
    assert split_host(header) == expected


# --- origins ----------------------------------------------------------------------------------------------------------

PAGE = {"Origin": "https://evil.example"}


def post(client: TestClient, **headers: str) -> tuple[int, str]:
    answer = client.post("/v1/jobs", json={}, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_page_of_another_origin_may_not_post_to_an_open_service(client: TestClient) -> None:
    for origin in [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://testserver:81",
        "//",
        "http://[",
        "",
    ]:
        assert post(client, Origin=origin) == (403, "foreign_origin"), origin
    upload = client.post("/v1/datasets", files={"file": b"a,label\n1,x\n"}, data={"name": "x"}, headers=PAGE)
    assert upload.json()["code"] == "foreign_origin"
    assert client.delete("/v1/models/m", headers=PAGE).json()["code"] == "foreign_origin"


def test_own_page_and_clients_without_an_origin_may_post(client: TestClient) -> None:
    assert post(client)[0] == 422
    for origin in ["http://testserver", "http://TESTSERVER:80", "https://testserver"]:
        assert post(client, Origin=origin)[0] == 422, origin
    assert post(client, Origin="http://127.0.0.1:8000", Host="127.0.0.1:8000")[0] == 422
    assert post(client, Origin="http://[::1]:8000", Host="[::1]:8000")[0] == 422


def test_page_of_another_origin_may_read_nothing(client: TestClient) -> None:
    answer = client.get("/v1/models", headers=PAGE)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    preflight = client.options("/v1/models", headers=PAGE | {"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in preflight.headers


def test_key_is_what_counts_once_one_exists(client: TestClient) -> None:
    token = new_key(client)
    assert post(client, **PAGE)[0] == 401
    assert post(client, **PAGE, **bearer(token))[0] == 422


def test_named_origin_may_use_an_open_service(settings: Settings) -> None:
    open_to = settings.model_copy(update={"cors_origins": "https://app.example, https://b.example"})
    with TestClient(create_app(open_to)) as client:
        answer = client.post("/v1/jobs", json={}, headers={"Origin": "https://app.example"})
        assert answer.status_code == 422
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        preflight = client.options(
            "/v1/jobs",
            headers={
                "Origin": "https://app.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, idempotency-key",
            },
        )
        assert preflight.status_code == 200
        assert post(client, **PAGE) == (403, "foreign_origin")
