import json
import threading
from typing import Any

from app.db import REQUEST_THREADS
from app.dependencies import Services
from app.jobs import lifecycle
from tests.jobs import claimed, queued


def _finish(services: Services, job_id: str, steps: int = 2) -> None:
    claim = claimed(services, job_id)
    for step in range(1, steps + 1):
        with services.database.transaction() as session:
            lifecycle.advance(session, claim, progress=step / steps, phase="fitting", eta_seconds=1.0, has_event=True)
    with services.database.transaction() as session:
        lifecycle.succeed(session, claim, {"done": True})


def _stream(client, job_id: str, **headers: str) -> list[dict[str, Any]]:
    """Every message until the server ends the stream."""
    messages: list[dict[str, Any]] = []
    accept = {"Accept": "text/event-stream"}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=accept | headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        message: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                message[name] = value
            elif message:
                messages.append(message)
                message = {}
    return messages


def test_events_are_listed_after_a_number_when_asked_for(client, services: Services):
    job_id = queued(services)
    _finish(services, job_id)
    events = client.get(f"/v1/jobs/{job_id}/events").json()
    assert [(event["id"], event["type"]) for event in events] == [
        (1, "queued"), (2, "running"), (3, "progress"), (4, "progress"), (5, "succeeded"),
    ]  # fmt: skip
    assert events[2]["data"] == {"state": "running", "progress": 0.5, "phase": "fitting", "eta_seconds": 1.0}
    later = client.get(f"/v1/jobs/{job_id}/events?after=3").json()
    assert [event["id"] for event in later] == [4, 5]


def test_events_are_refused_when_the_number_is_impossible(client, services: Services):
    job_id = queued(services)
    for bad in ("-1", "x", str(2**63)):
        assert client.get(f"/v1/jobs/{job_id}/events?after={bad}").status_code == 422
        headers = {"Accept": "text/event-stream", "Last-Event-ID": bad}
        assert client.get(f"/v1/jobs/{job_id}/events", headers=headers).status_code == 422


def test_stream_ends_after_the_last_event_when_the_job_ended(client, services: Services):
    job_id = queued(services)
    _finish(services, job_id)
    messages = _stream(client, job_id)
    assert [(message["id"], message["event"]) for message in messages] == [
        ("1", "queued"), ("2", "running"), ("3", "progress"), ("4", "progress"), ("5", "succeeded"),
    ]  # fmt: skip
    assert json.loads(messages[-1]["data"])["data"]["result"] == {"done": True}


def test_stream_resumes_when_the_last_event_id_is_given(client, services: Services):
    job_id = queued(services)
    _finish(services, job_id)
    messages = _stream(client, job_id, **{"Last-Event-ID": "3"})
    assert [message["id"] for message in messages] == ["4", "5"]
    assert _stream(client, job_id, **{"Last-Event-ID": "5"}) == []


def test_stream_follows_the_job_when_it_is_still_running(client, services: Services):
    job_id = queued(services)
    worker = threading.Timer(0.5, _finish, [services, job_id, 5])
    worker.start()
    messages = _stream(client, job_id)
    worker.join()
    assert [message["id"] for message in messages] == [str(number) for number in range(1, 9)]


def test_streams_hold_no_connection_when_many_are_open(client, services: Services):
    job_id = queued(services)
    n_streams = REQUEST_THREADS + 5
    counts: list[int] = []
    readers = [threading.Thread(target=lambda: counts.append(len(_stream(client, job_id)))) for _ in range(n_streams)]
    for reader in readers:
        reader.start()
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200
    _finish(services, job_id)
    for reader in readers:
        reader.join(timeout=90)
    assert counts == [5] * n_streams
