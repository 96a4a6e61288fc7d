"""So many requests a minute, counted over a real broker and without one."""

import socket
import time
from collections.abc import Iterator

import pytest
from fastapi import Depends
from fastapi.testclient import TestClient
from redis import Redis

from app import rate_limit
from app.main import create_app
from app.rate_limit import RateLimiter
from app.security import DEFAULT_PROJECT, SCOPES, create_key, require
from app.settings import Settings
from tests.app.adapted import services_of

LIMIT = 3


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no broker that is away."""
    monkeypatch.setattr(rate_limit, "BROKER_SECONDS", 60.0)


@pytest.fixture
def limited(settings: Settings) -> Settings:
    return settings.model_copy(update={"requests_per_minute": LIMIT})


@pytest.fixture
def client(limited: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(limited), raise_server_exceptions=False) as client:
        yield client


def bare(broker_url: str) -> Settings:
    """Enough settings for a limiter alone."""
    return Settings(requests_per_minute=LIMIT, broker_url=broker_url)


@pytest.fixture
def silent_broker() -> Iterator[str]:
    """URL of a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def made_key(client: TestClient, *scopes: str) -> dict[str, str]:
    with services_of(client).database.transaction() as session:
        _, token = create_key(session, project_id=DEFAULT_PROJECT, name="k", scopes=scopes or SCOPES)
    return {"Authorization": f"Bearer {token}"}


def statuses(client: TestClient, n: int, headers: dict[str, str] | None = None, path: str = "/v1/usage") -> list[int]:
    return [client.get(path, headers=headers).status_code for _ in range(n)]


def counted(limiter: RateLimiter, n: int) -> list[bool]:
    """Whether each of `n` requests was one too many."""
    found = [limiter.count("somebody") for _ in range(n)]
    return [allowance.is_exceeded for allowance in found if allowance is not None]


def test_nothing_is_limited_when_no_limit_is_set(settings):
    with TestClient(create_app(settings)) as client:
        answer = client.get("/v1/usage")
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.lower().startswith("ratelimit")]


def test_request_is_refused_with_the_time_to_wait_when_the_key_has_sent_too_many(client):
    headers = made_key(client)
    assert statuses(client, LIMIT, headers) == [200] * LIMIT
    refused = client.get("/v1/usage", headers=headers)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (429, "rate_limited", True)
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == (str(LIMIT), "0")


def test_answer_tells_what_is_left(client):
    headers = made_key(client)
    answers = [client.get("/v1/usage", headers=headers) for _ in range(LIMIT)]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0"]
    assert all(1 <= int(answer.headers["RateLimit-Reset"]) <= 60 for answer in answers)


def test_each_key_has_a_limit_of_its_own(client):
    greedy, modest = made_key(client), made_key(client)
    assert statuses(client, LIMIT + 1, greedy)[-1] == 429
    assert statuses(client, LIMIT, modest) == [200] * LIMIT


def test_requests_count_together_when_several_processes_share_a_broker(client, limited):
    headers = made_key(client)
    with TestClient(create_app(limited)) as replica:
        assert statuses(client, 2, headers) == [200, 200]
        assert statuses(replica, 2, headers) == [200, 429]


def test_request_counts_once_however_many_dependencies_ask_who_it_is(limited):
    app = create_app(limited)

    @app.get("/two", dependencies=[Depends(require("jobs")), Depends(require("models"))])
    def two() -> None: ...

    with TestClient(app) as client:
        assert statuses(client, LIMIT + 1, made_key(client), "/two") == [200] * LIMIT + [429]
        headers = made_key(client)
        answers = [client.post("/v1/datasets", headers=headers) for _ in range(LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [415] * LIMIT + [429]


def test_refused_requests_count_when_the_key_is_good(client):
    headers = made_key(client, "predict")
    assert statuses(client, LIMIT + 1, headers, "/v1/keys") == [403] * LIMIT + [429]


def test_request_with_a_bad_key_takes_nothing_from_the_good_one(client):
    headers = made_key(client)
    forged = {"Authorization": headers["Authorization"][:-5] + "AAAAA"}
    assert statuses(client, LIMIT + 1, forged) == [401] * (LIMIT + 1)
    assert statuses(client, LIMIT, headers) == [200] * LIMIT


def test_public_routes_are_not_counted(client):
    assert statuses(client, LIMIT + 2, path="/healthz") == [200] * (LIMIT + 2)
    assert statuses(client, LIMIT) == [200] * LIMIT


def test_open_service_counts_for_each_address(client):
    neighbour = TestClient(client.app, client=("192.0.2.7", 5000))
    assert statuses(client, LIMIT + 1) == [200] * LIMIT + [429]
    assert statuses(neighbour, LIMIT + 1) == [200] * LIMIT + [429]


def test_requests_are_answered_and_counted_when_the_broker_is_away(limited):
    lonely = limited.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(lonely)) as client:
        assert statuses(client, LIMIT + 1, made_key(client)) == [200] * LIMIT + [429]


def test_limiter_counts_in_the_broker_and_lets_the_count_expire(broker_url):
    limiter = RateLimiter(bare(broker_url))
    assert counted(limiter, LIMIT + 2) == [False] * LIMIT + [True, True]
    with Redis.from_url(broker_url.replace("redis+socket://", "unix://")) as broker:
        (key,) = broker.keys("metagraft:*somebody*")
        assert 0 < int(broker.ttl(key)) <= 60
        broker.delete(key)
    assert counted(limiter, 1) == [False]
    limiter.close()


def test_limiter_counts_for_itself_and_leaves_the_broker_alone_when_that_says_nothing(silent_broker, monkeypatch):
    monkeypatch.setattr(rate_limit, "BROKER_SECONDS", 0.1)
    limiter = RateLimiter(bare(silent_broker))
    assert counted(limiter, 1) == [False]
    assert limiter._shared_again_at > 0
    limiter._shared_again_at = time.monotonic() + 3600
    assert counted(limiter, LIMIT) == [False] * (LIMIT - 1) + [True]
    limiter.close()


def test_limiter_goes_back_to_the_broker_when_the_pause_is_over(broker_url):
    limiter = RateLimiter(bare(broker_url))
    limiter._shared_again_at = time.monotonic() + 3600
    assert counted(limiter, LIMIT + 1)[-1]
    limiter._shared_again_at = 0.0
    assert counted(limiter, LIMIT + 1) == [False] * LIMIT + [True]
    limiter.close()


def test_limiter_counts_for_itself_when_the_broker_is_of_another_kind():
    limiter = RateLimiter(bare("amqp://guest@127.0.0.1:1//"))
    assert counted(limiter, LIMIT + 1) == [False] * LIMIT + [True]
    limiter.close()
