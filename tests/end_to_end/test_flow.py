"""Upload, meta-train, adapt, predict: the API and real worker processes, every modality and kind of backing service."""

import io
import json
import signal
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sklearn.datasets import load_digits
from sqlalchemy import func, select

from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from app.tables import Job, MetaLearner, ModelVersion
from tests.jobs import csv, ended, submit, until, upload

Start = Callable[..., subprocess.Popen[bytes]]
STRATEGIES = ("target_only", "metric", "init", "auto")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "text"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def meta_train(client: TestClient, sources: Sequence[str], **options: Any) -> str:
    graft = {"steps": 2, "batch_rows": 8, "held_out_rows": 16}
    options = {"steps": 40, "evaluation_episodes": 20, "evaluation_shots": [2, 5], "graft": graft} | options
    job = submit(client, kind="meta_train", name="learner", sources=list(sources), options=options)
    done = ended(client, job["id"], seconds=200)
    assert done["state"] == "succeeded", done["error"]
    return str(done["result"]["meta_learner"])


def adapt(client: TestClient, **body: Any) -> dict[str, Any]:
    done = ended(client, submit(client, kind="adapt", **body)["id"], seconds=200)
    assert done["state"] == "succeeded", done["error"]
    result: dict[str, Any] = done["result"]
    return result


def share_right(predictions: Sequence[dict[str, Any]], truth: Sequence[str]) -> float:
    assert len(predictions) == len(truth)
    return sum(1 for p, label in zip(predictions, truth, strict=True) if p["label"] == label) / len(truth)


def rows(data: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """Inputs and labels of a table made by `tests.jobs.csv`."""
    cells = [line.split(",") for line in data.decode().splitlines()[1:]]
    return [{"a": float(a), "b": float(b)} for a, b, _ in cells], [label for _, _, label in cells]


def test_table_is_adapted_by_every_strategy(client: TestClient, start_worker: Start):
    start_worker()
    sources = [upload(client, f"s{i}", csv(shift=i, rows=80, seed=i)) for i in range(3)]
    learner = meta_train(client, sources)
    target = upload(client, "target", csv(shift=4, rows=10, seed=9))
    inputs, truth = rows(csv(shift=4, rows=60, seed=10))
    for strategy in STRATEGIES:
        transfer = {} if strategy == "target_only" else {"meta_learner": learner}
        result = adapt(client, dataset=target, model="m", strategy=strategy, **transfer)
        assert result["report"]["strategy"] == strategy or strategy == "auto"
        answer = client.post("/v1/models/m/predict", json={"inputs": inputs}).json()
        assert answer["version"] == result["version"]
        assert share_right(answer["predictions"], truth) > 0.75
    versions = client.get("/v1/models/m/versions").json()["items"]
    assert sorted(version["number"] for version in versions) == [1, 2, 3, 4]


def _working(services: Services, known: set[str]) -> tuple[set[str]] | None:
    """Owners of running jobs that are not `known` (none once every job has succeeded); None while there is nothing new.

    A job whose worker was killed stays `running` until its lease runs out, so the state alone does not tell.
    """
    with services.database.session(read_only=True) as session:
        jobs = session.scalars(select(Job)).all()
    owners = {job.owner for job in jobs if job.state == "running" and job.owner} - known
    return (owners,) if owners or all(job.state == "succeeded" for job in jobs) else None


def test_ten_killed_workers_leave_every_job_done_once(client: TestClient, services: Services, start_worker: Start):
    target = upload(client, "target", csv(shift=1, rows=40, seed=1))
    sources = [upload(client, f"s{i}", csv(shift=i, rows=80, seed=i)) for i in range(3)]
    submitted = [
        submit(client, kind="adapt", dataset=target, sources=sources, model=f"m{i % 4}", strategy="metric")["id"]
        for i in range(12)
    ]
    killed: set[str] = set()
    kills, worker = 0, start_worker()
    while kills < 10:
        owners = until(lambda: _working(services, killed), seconds=120)[0]
        if not owners:
            # The worker was faster than the kills: give it one more job to be killed in.
            submitted.append(
                submit(client, kind="adapt", dataset=target, sources=sources, model="m0", strategy="metric")["id"]
            )
            continue
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed.update(owners)
        kills, worker = kills + 1, start_worker()
    assert [ended(client, job, seconds=120)["state"] for job in submitted] == ["succeeded"] * len(submitted)
    with services.database.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(ModelVersion)) == len(submitted)
        for model in {version.model_id for version in session.scalars(select(ModelVersion))}:
            found = session.scalars(select(ModelVersion.number).where(ModelVersion.model_id == model))
            numbers = sorted(found)
            assert numbers == list(range(1, len(numbers) + 1))


@on_sqlite
def test_one_job_is_done_once_when_its_worker_is_killed_ten_times(
    client: TestClient, services: Services, start_worker: Start
):
    sources = [upload(client, f"s{i}", csv(shift=i, rows=80, seed=i)) for i in range(3)]
    options = {"steps": 3000, "evaluation_episodes": 4, "evaluation_shots": [2]}
    job_id = submit(client, kind="meta_train", name="learner", sources=sources, options=options)["id"]
    for _ in range(10):
        worker = start_worker()
        until(lambda: client.get(f"/v1/jobs/{job_id}").json()["phase"] == "meta-training", seconds=120)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        until(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued", seconds=120)
    start_worker()
    done = ended(client, job_id, seconds=120)
    assert done["state"] == "succeeded", done["error"]
    with services.database.session(read_only=True) as session:
        assert session.scalars(select(MetaLearner.job_id)).all() == [job_id]


@on_sqlite
def test_reviews_of_a_new_domain_are_learnt_from_other_domains(client: TestClient, start_worker: Start):
    start_worker()
    sources = [upload(client, f.stem, f.read_bytes()) for f in sorted(EXAMPLES.glob("*.csv")) if f.stem != "mobile_app"]
    learner = meta_train(client, sources)
    lines = (EXAMPLES / "mobile_app.csv").read_text().splitlines()
    support = [line for label in ("positive", "negative") for line in [x for x in lines[1:] if x.endswith(label)][:6]]
    held = [line for line in lines[1:] if line not in support]
    target = upload(client, "mobile", "\n".join([lines[0], *support]).encode())
    result = adapt(client, dataset=target, model="reviews", strategy="auto", meta_learner=learner)
    assert result["report"]["transfer_gain"]["value"] > 0
    texts = [line.rpartition(",")[0].strip('"').replace('""', '"') for line in held]
    answer = client.post("/v1/models/reviews/predict", json={"inputs": texts, "explain": True}).json()
    assert share_right(answer["predictions"], [line.rpartition(",")[2] for line in held]) > 0.65
    assert answer["predictions"][0]["evidence"][0].keys() == {"example", "label", "similarity"}


def digit(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


@on_sqlite
def test_images_are_learnt_from_a_zip_and_predicted_from_files(client: TestClient, start_worker: Start):
    start_worker()
    images, labels = load_digits(return_X_y=True)
    chosen = [i for i in range(len(labels)) if labels[i] in {0, 1, 6}]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for i in chosen[:30]:
            zipped.writestr(f"{labels[i]}/{i}.png", digit(images[i].reshape(8, 8)))
    target = client.post(
        "/v1/datasets", files={"file": ("digits.zip", archive.getvalue())}, data={"name": "digits"}
    ).json()
    assert target["modality"] == "image"
    adapt(client, dataset=target["id"], model="digits", strategy="target_only")
    held = chosen[30:60]
    files = [("files", (f"{i}.png", digit(images[i].reshape(8, 8)), "image/png")) for i in held]
    files.append(("files", ("broken.png", b"not an image", "image/png")))
    answer = client.post("/v1/models/digits/predict", files=files).json()
    assert share_right(answer["predictions"][:-1], [str(labels[i]) for i in held]) > 0.8
    assert answer["predictions"][-1]["error"]["code"]


@on_sqlite
def test_batch_prediction_downloads_one_line_per_row(client: TestClient, start_worker: Start):
    start_worker()
    adapt(client, dataset=upload(client, "t", csv(rows=20)), model="m", strategy="target_only")
    fresh = upload(client, "fresh", csv(rows=50, seed=5))
    job = submit(client, kind="batch_predict", model="m", dataset=fresh)
    done = ended(client, job["id"])
    assert done["state"] == "succeeded", done["error"]
    lines = client.get(done["result"]["download"]).text.splitlines()
    assert len(lines) == 50
    assert {"label", "probability"} <= json.loads(lines[0]).keys()


@on_sqlite
def test_feedback_is_learnt_when_the_next_adapt_asks_for_it(client: TestClient, start_worker: Start):
    start_worker()
    target = upload(client, "t", csv(rows=20))
    adapt(client, dataset=target, model="m", strategy="target_only")
    for value in (-9.0, -9.5, -10.0):
        feedback = {"input": {"a": value, "b": 0.0}, "label": "very low"}
        assert client.post("/v1/models/m/feedback", json=feedback).status_code == 201
    adapt(client, dataset=target, model="m", strategy="target_only", options={"include_feedback": True})
    answer = client.post("/v1/models/m/predict", json={"inputs": [{"a": -9.6, "b": 0.0}]}).json()
    assert answer["predictions"][0]["label"] == "very low"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_flow_passes_with_postgresql_redis_and_object_storage(
    settings: Settings, s3_endpoint: str, start_worker: Start
):
    remote = {
        "storage_url": "s3://bucket/flow", "s3_endpoint": s3_endpoint,
        "s3_access_key_id": "key", "s3_secret_access_key": "secret",
    }  # fmt: skip
    start_worker(**{f"METAGRAFT_{name.upper()}": value for name, value in remote.items()})
    with TestClient(create_app(settings.model_copy(update=remote))) as client:
        target = upload(client, "t", csv(rows=20))
        adapt(client, dataset=target, model="m", strategy="target_only")
        inputs, truth = rows(csv(rows=40, seed=6))
        answer = client.post("/v1/models/m/predict", json={"inputs": inputs}).json()
        assert share_right(answer["predictions"], truth) > 0.8
    assert not (settings.data_dir / "storage").exists()


@on_sqlite
def test_hospital_is_adapted_from_other_hospitals(client: TestClient, start_worker: Start, shared_data: Path):
    start_worker()
    cleveland, hungary = (
        upload(client, name, (shared_data / "heart" / f"{name}.csv").read_bytes()) for name in ("cleveland", "hungary")
    )
    header, *lines = (shared_data / "heart" / "va.csv").read_text().splitlines()
    few = [line for label in ("yes", "no") for line in [x for x in lines if x.endswith(label)][:10]]
    target = upload(client, "va", "\n".join([header, *few]).encode())
    result = adapt(client, dataset=target, model="heart", strategy="auto", sources=[cleveland, hungary])
    assert {source["dataset"] for source in result["report"]["sources"]} == {cleveland, hungary}
    assert result["report"]["metrics"]["accuracy"] > 0.5
