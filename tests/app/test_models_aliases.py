"""Aliases: creating, moving with ETags, rolling back, deleting; on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.app.adapted import publish, services_of

URL = "/v1/models/fruit/aliases/champion"


@pytest.fixture(autouse=True)
def _model(client):
    for _ in range(3):
        publish(services_of(client), "fruit")


def move(client, version, etag=None):
    return client.put(URL, json={"version": version}, headers={"If-Match": etag} if etag else {})


def test_alias_is_created_without_a_precondition(client):
    answer = move(client, 1)
    assert answer.status_code == 201
    assert answer.headers["ETag"] == '"1"'
    assert answer.json()["version"] == 1


def test_alias_moves_when_its_etag_is_sent(client):
    etag = move(client, 1).headers["ETag"]
    moved = move(client, 2, etag)
    assert (moved.status_code, moved.json()["version"]) == (200, 2)
    assert client.get(URL).headers["ETag"] == moved.headers["ETag"] != etag


@pytest.mark.parametrize("tag", ["*", '"9", "1"'])
def test_alias_moves_when_the_precondition_covers_its_etag(client, tag):
    move(client, 1)
    assert move(client, 2, tag).status_code == 200


def test_alias_stays_when_it_exists_and_no_precondition_is_sent(client):
    move(client, 1)
    answer = move(client, 2)
    assert (answer.status_code, answer.json()["code"]) == (428, "precondition_required")
    assert client.get(URL).json()["version"] == 1


def test_alias_stays_when_it_has_moved_since(client):
    stale = move(client, 1).headers["ETag"]
    move(client, 2, stale)
    answer = move(client, 3, stale)
    assert answer.status_code == 412
    assert answer.headers["ETag"] == '"2"'


def test_alias_is_not_created_when_a_precondition_is_sent(client):
    assert move(client, 1, "*").status_code == 412


def test_alias_keeps_its_etag_when_moved_to_where_it_is(client):
    etag = move(client, 1).headers["ETag"]
    assert move(client, 1, etag).headers["ETag"] == etag


def test_alias_etag_is_never_given_again_after_deletion(client):
    etag = move(client, 1).headers["ETag"]
    assert client.delete(URL).status_code == 204
    assert client.get(URL).status_code == 404
    move(client, 2)
    assert move(client, 3, etag).status_code == 412


def test_alias_refuses_a_version_that_does_not_exist(client):
    for version in [4, 0, 2**31, 2**63, "1", 1.5, None]:
        answer = move(client, version)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].endswith("/version")


def test_alias_refuses_a_name_that_is_not_plain(client):
    for alias in ["1", "9a", "-x", "a b", "a%00", "x" * 101]:
        assert client.put(f"/v1/models/fruit/aliases/{alias}", json={"version": 1}).status_code == 422


def test_latest_is_not_moved_by_hand(client):
    for method, suffix in [("PUT", ""), ("DELETE", ""), ("POST", "/rollback")]:
        answer = client.request(method, f"/v1/models/fruit/aliases/latest{suffix}", json={"version": 1})
        assert (answer.status_code, answer.json()["code"]) == (409, "latest_is_automatic")


def test_rollback_goes_back_one_version_each_time(client):
    for version in (1, 2, 3):
        move(client, version, "*" if version > 1 else None)
    assert client.post(f"{URL}/rollback").json()["version"] == 2
    assert client.post(f"{URL}/rollback").json()["version"] == 1
    answer = client.post(f"{URL}/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_roll_back")


def test_rollback_continues_from_what_was_set_after_a_rollback(client):
    move(client, 1)
    move(client, 2, "*")
    client.post(f"{URL}/rollback")
    move(client, 3, "*")
    assert client.post(f"{URL}/rollback").json()["version"] == 1


def test_rollback_is_refused_when_the_version_was_deleted(client):
    move(client, 1)
    move(client, 2, "*")
    client.delete("/v1/models/fruit/versions/1")
    assert client.post(f"{URL}/rollback").json()["code"] == "version_deleted"


def test_rollback_is_refused_when_the_etag_is_stale(client):
    move(client, 1)
    move(client, 2, "*")
    assert client.post(f"{URL}/rollback", headers={"If-Match": '"1"'}).status_code == 412


def test_history_names_every_move_newest_first(client):
    move(client, 1)
    move(client, 2, "*")
    client.post(f"{URL}/rollback")
    client.delete(URL)
    moves = client.get(f"{URL}/history").json()["items"]
    assert [(entry["version"], entry["previous"], entry["reason"]) for entry in moves] == [
        (None, 1, "delete"),
        (1, 2, "rollback"),
        (2, 1, "set"),
        (1, None, "set"),
    ]


def test_history_is_not_found_when_the_alias_never_existed(client):
    assert client.get(f"{URL}/history").status_code == 404


def test_history_of_latest_follows_the_publications(client):
    moves = client.get("/v1/models/fruit/aliases/latest/history").json()["items"]
    assert [entry["version"] for entry in moves] == [3, 2, 1]


def test_alias_moves_once_when_many_send_the_same_etag_at_once(client):
    etag = move(client, 1).headers["ETag"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: move(client, 2 + n % 2, etag).status_code, range(8)))
    assert sorted(answers) == [200] + [412] * 7
