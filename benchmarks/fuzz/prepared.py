"""A service that has one of everything, so that made-up requests get past `not found`."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from app.security import DEFAULT_PROJECT, SCOPES, create_key
from app.settings import QUEUES, Settings
from benchmarks.chaos.submitting import submitting
from worker.draining import Drain
from worker.runner import Runner

ROWS = b"x,y,label\n" + b"".join(b"%d.5,%d,%s\n" % (i, i % 5, (b"low", b"high")[i >= 12]) for i in range(24))
TENSORS = {
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1.0, None]}],
    "outputs": [],
    "parameters": {},
}
MODEL, GUARDED, FREE_ALIAS = "model", "champion", "challenger"
QUICK = {"steps": 3, "evaluation_episodes": 4, "evaluation_shots": [1]}


@dataclass
class Prepared:
    """What is there, by the name of the path parameter that leads to it; and a key that may do everything."""

    key: str
    ids: dict[str, str]
    _made: int = field(default=0, init=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def path(self, http: httpx.Client, method: str, path: str, names: list[str]) -> dict[str, str]:
        """Values for path parameters. What the request would end is made for it."""
        found = {name: self.ids[name] for name in names if name in self.ids}
        if "dataset_id" in names and method == "DELETE":
            self._made += 1
            found["dataset_id"] = _upload(http, f"spare {self._made}", ROWS + b"%d,1,low\n" % self._made)
        if "row" in names:
            found["dataset_id"] = self.ids["image_dataset"]
        if path.endswith(("/cancel", "/retry")):
            found["job_id"] = self._waiting(http)
        if path.endswith("/retry"):
            http.post(f"/v1/jobs/{found['job_id']}/cancel").raise_for_status()
        if "key_id" in names:
            answer = http.post("/v1/keys", json={"name": "spare", "scopes": ["predict"]})
            found["key_id"] = str(answer.raise_for_status().json()["id"])
        return found

    def _waiting(self, http: httpx.Client) -> str:
        """A job that nobody runs."""
        body = {"kind": "adapt", "dataset": self.ids["dataset_id"], "model": "waiting", "strategy": "target_only"}
        return str(http.post("/v1/jobs", json=body).raise_for_status().json()["id"])

    def body(self, path: str, made_up: dict[str, Any]) -> dict[str, Any]:
        """`made_up` with the parts that have to name something that exists."""
        dataset = self.ids["dataset_id"]
        if path == "/v1/jobs":
            real: dict[str, dict[str, Any]] = {
                "adapt": {"dataset": dataset, "sources": [], "meta_learner": None, "options": {}},
                "batch_predict": {"dataset": dataset, "model": MODEL},
                "meta_train": {"sources": [dataset], "options": {}},
            }
            return made_up | real.get(str(made_up.get("kind")), {})
        fixed: dict[str, dict[str, Any]] = {
            "/v1/datasets": {"file": ROWS, "name": "rows", "label_column": "label"},
            "/v1/keys": {"expires_at": None},
            "/v1/models/{name}/aliases/{alias}": {"version": 1},
            "/v1/models/{name}/predict": {"inputs": [{"x": 1.0}, {"y": "?"}]},
            "/v1/models/{name}/versions/{number}/predict": {"inputs": [{"x": 1.0}]},
            "/v2/models/{name}/infer": TENSORS | {"model_name": MODEL, "model_version": "1"},
            "/v2/models/{name}/versions/{number}/infer": TENSORS | {"model_name": MODEL, "model_version": "1"},
            "/v1/models/{name}/feedback": {"input": {"x": 1.0, "y": 2.0}, "label": "low"},
        }
        if path == "/v1/datasets":
            return fixed[path]
        return made_up | fixed.get(path, {})


def _upload(http: Any, name: str, data: bytes, filename: str = "rows.csv") -> str:
    answer = http.post("/v1/datasets", files={"file": (filename, data)}, data={"name": name})
    return str(answer.raise_for_status().json()["id"])


def _images() -> bytes:
    """A zip of two classes of two images each."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(4):
            image = io.BytesIO()
            Image.new("RGB", (32, 32), (number * 60, 0, 0)).save(image, "PNG")
            file.writestr(f"{'ab'[number % 2]}/{number}.png", image.getvalue())
    return archive.getvalue()


class _Filling:
    """Fills a service through its API; jobs run in this process."""

    def __init__(self, http: Any, services: Any) -> None:
        self.http = http
        self._runner = Runner(services, QUEUES, Drain())

    def queue(self, **body: Any) -> str:
        return str(self.http.post("/v1/jobs", json=body).raise_for_status().json()["id"])

    def run(self, **body: Any) -> tuple[str, dict[str, Any]]:
        """The id and the result of a job that succeeded."""
        job_id = self.queue(**body)
        self._runner.run(job_id)
        job = self.http.get(f"/v1/jobs/{job_id}").json()
        if job["state"] != "succeeded":
            raise RuntimeError(f"the job to prepare {body} ended as {job['state']}: {job['error']}")
        return job_id, job["result"]

    def everything(self, *, meta_learner: bool) -> dict[str, str]:
        dataset = _upload(self.http, "rows", ROWS)
        adapt = {"kind": "adapt", "dataset": dataset, "model": MODEL, "strategy": "target_only"}
        self.run(**adapt)
        for alias in (GUARDED, FREE_ALIAS):
            self.http.put(f"/v1/models/{MODEL}/aliases/{alias}", json={"version": 1}).raise_for_status()
        predicted, _ = self.run(kind="batch_predict", dataset=dataset, model=MODEL)
        found = {
            "dataset_id": dataset, "name": MODEL, "number": "1", "alias": FREE_ALIAS, "row": "1", "job_id": predicted,
            "meta_learner_id": "ml_" + "0" * 32, "image_dataset": _upload(self.http, "images", _images(), "images.zip"),
        }  # fmt: skip
        if meta_learner:
            sources = [_upload(self.http, f"source {i}", ROWS + b"%d.25,3,high\n" % i) for i in range(3)]
            _, result = self.run(kind="meta_train", name="learned", sources=sources, options=QUICK)
            found["meta_learner_id"] = result["meta_learner"]
            # Its job waits, so that nobody may delete the meta-learner.
            self.queue(**adapt | {"model": "waiting", "strategy": "init", "meta_learner": result["meta_learner"]})
        return found


@contextmanager
def prepared(settings: Settings, *, meta_learner: bool) -> Iterator[Prepared]:
    """Fills the database and storage of `settings`, and then closes them with a key."""
    with submitting(settings) as client:
        services = client.http.app.state.services
        ids = _Filling(client.http, services).everything(meta_learner=meta_learner)
        with client.database.transaction() as session:
            _, key = create_key(session, project_id=DEFAULT_PROJECT, name="fuzz", scopes=SCOPES)
    yield Prepared(key=key, ids=ids)
