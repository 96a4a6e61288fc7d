"""What /metrics tells of jobs, workers, connections and refusals."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import tallies
from app.dependencies import Services
from app.jobs.sweeper import Sweeper
from app.tallies import Key
from tests.app.adapted import publish, services_of
from tests.jobs import claimed, queued, submit, upload
from worker.draining import Drain
from worker.measuring import Measurements, Parts
from worker.runner import Runner


def values(client: TestClient, name: str) -> dict[str, float]:
    """Labels of the metric, as they are written, to its value."""
    found = {}
    for line in client.get("/metrics").text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name:
            found[series.removeprefix(name)] = float(value)
    return found


def run(client: TestClient, **body: Any) -> None:
    job = submit(client, **body)
    Runner(services_of(client), ["adapt", "train"], Drain()).run(job["id"])
    state = client.get(f"/v1/jobs/{job['id']}").json()
    assert state["state"] == "succeeded", state["error"]


def test_metrics_tell_what_a_job_took_by_part(client: TestClient) -> None:
    dataset = upload(client)
    run(client, kind="adapt", dataset=dataset, model="m", strategy="target_only")
    run(client, kind="batch_predict", dataset=dataset, model="m")
    runs = values(client, "metagraft_job_runs_total")
    assert runs == {'{kind="adapt",outcome="succeeded"}': 1.0, '{kind="batch_predict",outcome="succeeded"}': 1.0}
    seconds = values(client, "metagraft_job_seconds_total")
    for kind, parts in {
        "adapt": ("load", "encode", "fit", "publish"),
        "batch_predict": ("load", "predict", "publish"),
    }.items():
        assert all(seconds[f'{{kind="{kind}",part="{part}"}}'] > 0 for part in parts), seconds
    lookups = values(client, "metagraft_cache_lookups_total")
    assert lookups['{cache="learners",outcome="miss",process="worker"}'] == 1.0


def test_metrics_tell_rows_and_seconds_of_encoders(client: TestClient, database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("what encoders count does not depend on the database, and loading one takes seconds")
    texts = b"text,label\n" + b"".join(b"a good thing %d,good\na bad thing %d,bad\n" % (i, i) for i in range(6))
    run(client, kind="adapt", dataset=upload(client, data=texts), model="t", strategy="target_only")
    rows = values(client, "metagraft_encoder_rows_total")
    assert rows['{encoder="minilm-l6-v2",process="worker"}'] >= 12.0
    assert values(client, "metagraft_encoder_seconds_total")['{encoder="minilm-l6-v2",process="worker"}'] > 0
    assert values(client, "metagraft_cache_lookups_total")['{cache="features",outcome="miss",process="worker"}'] >= 12.0


def test_metrics_count_leases_that_were_lost(client: TestClient) -> None:
    services = services_of(client)
    for _ in range(2):
        claimed(services, queued(services), lease=-1.0)
    Sweeper(services).sweep()
    assert values(client, "metagraft_lease_losses_total") == {'{kind="adapt"}': 2.0}


def test_metrics_tell_the_oldest_job_of_each_queue(client: TestClient) -> None:
    services = services_of(client)
    queued(services, kind="meta_train", queue="train")
    ages = values(client, "metagraft_queue_oldest_seconds")
    assert ages['{queue="adapt"}'] == 0.0
    assert ages['{queue="train"}'] > 0.0
    assert values(client, "metagraft_queue_age_seconds")[""] > 0.0


def test_metrics_count_refusals_by_code(client: TestClient) -> None:
    client.get("/v1/models/none")
    client.get("/v1/models", headers={"Host": "evil.example"})
    client.post("/v1/jobs", json={})
    problems = values(client, "metagraft_problems_total")
    assert problems['{code="not_found",status="404"}'] == 1.0
    assert problems['{code="untrusted_host",status="421"}'] == 1.0
    assert problems['{code="invalid_input",status="422"}'] == 1.0


def test_methods_that_clients_make_up_are_one_label(client: TestClient) -> None:
    for method in ("BREW", "PROPFIND", "X" * 50):
        client.request(method, "/healthz")
    assert {labels for labels in values(client, "metagraft_requests_total") if "other" in labels} == {
        '{method="other",route="/healthz",status="405"}'
    }


def test_metrics_tell_connections_and_the_process_that_answers(client: TestClient) -> None:
    publish(services_of(client), "m")
    client.post("/v1/models/m/predict", json={"inputs": [{"size": 1}]})
    assert values(client, "metagraft_connections") == {"": 0.0}
    assert values(client, "metagraft_connections_limit") == {"": 1000.0}
    lookups = values(client, "metagraft_cache_lookups_total")
    assert lookups['{cache="learners",outcome="miss",process="api"}'] == 1.0


# --- tallies and what workers write -----------------------------------------------------------------------------------


def read(services: Services) -> dict[Key, float]:
    with services.database.session(read_only=True) as session:
        return tallies.read(session)


def test_tallies_add_up_and_unknown_ones_are_passed_over(services: Services) -> None:
    lost = Key(tallies.LEASE_LOSSES, ("adapt",))
    for amount in (1.0, 2.5):
        with services.database.transaction() as session:
            tallies.add(session, {lost: amount, Key("from_the_future", ("x",)): 1.0})
    assert read(services) == {lost: 3.5}


def test_measurements_write_only_what_is_new(services: Services) -> None:
    measurements = Measurements(services)
    key = Key(tallies.ENCODER_ROWS, ("worker", "e"))
    for rows in (3, 4):
        services.inference.meter.add("e", rows, 0.5)
        measurements.write("adapt", "succeeded", Parts())
    found = read(services)
    assert found[key] == 7.0
    assert found[Key(tallies.ENCODER_SECONDS, ("worker", "e"))] == 1.0
    assert found[Key(tallies.JOB_RUNS, ("adapt", "succeeded"))] == 2.0


def test_stretch_between_two_calls_belongs_to_the_phase_it_began_with() -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    calls: list[tuple[float, str]] = []
    parts = Parts(lambda: next(clock))
    progress = parts.noting(lambda fraction, phase: calls.append((fraction, phase)))
    for fraction, phase in [(0.0, "loading"), (0.1, "encoding"), (0.5, "scoring metric"), (1.0, "fitted")]:
        progress(fraction, phase)
    parts.close()
    assert parts.seconds == {"load": 3.0, "encode": 3.0, "evaluate": 4.0, "publish": 5.0}
    assert calls[-1] == (1.0, "fitted")
