"""How each peer is given models, started and asked."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, free_port
from benchmarks.serving.load import Request
from benchmarks.serving.peers.environments import environment
from benchmarks.serving.systems import CannotStart, Input, System, server

#: Nobody is told that they were used, and nothing is fetched.
_QUIET = {
    "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true", "BENTOML_DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}  # fmt: skip
_PACKAGE = "benchmarks.serving.peers"
#: What scikit-learn fitted, beside the exported weights of a table.
PIPELINE = "model.joblib"
#: Where an answer of Metagraft's form has its label.
PREDICTED = ("predictions", 0, "label")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders of one start: `models` holds a folder for each exported model, `work` is the peer's own.

    `environments` are kept between runs.
    """

    models: Path
    work: Path
    environments: Path

    @property
    def names(self) -> list[str]:
        return sorted(found.parent.name for found in self.models.glob("*/model.json"))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`many`: whether one server takes several models; `tables_only`: whether it takes no others."""

    name: str
    start: Callable[[Place, str], Iterator[System]]
    many: bool = True
    tables_only: bool = False

    @contextmanager
    def running(self, place: Place) -> Iterator[System]:
        """A server with every model of `place`.

        Raises:
            CannotInstall, CannotStart: with the reason.
        """
        place.work.mkdir(parents=True, exist_ok=True)
        yield from self.start(place, self.name)


def _fastapi(place: Place, name: str) -> Iterator[System]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{_PACKAGE}.fastapi_app:app", "--port", str(port), "--no-access-log"]
    models = {"SERVED_MODELS": str(place.models)}
    with server(command, _QUIET | models, f"http://127.0.0.1:{port}/ready", place.work / "log") as process:

        def ask(model: str, value: Input, labels: Sequence[str]) -> Request:
            checks = [(PREDICTED, list(labels))]
            return Request(path=f"/models/{model}/predict", body=json.dumps({"inputs": [value]}), checks=checks)

        yield System(name=name, port=port, pid=process.pid, ask=ask)


def _bentoml(place: Place, name: str) -> Iterator[System]:
    port, home = free_port(), environment("bentoml", place.environments)
    service = f"{_PACKAGE}.bentoml_service:Served"
    command = [str(home / "bin" / "bentoml"), "serve", service, "--host", "127.0.0.1", "--port", str(port)]
    mine = {"SERVED_MODELS": str(place.models), "BENTOML_HOME": str(place.work / "home")}
    with server(command, _QUIET | mine, f"http://127.0.0.1:{port}/readyz", place.work / "log") as process:

        def ask(model: str, value: Input, labels: Sequence[str]) -> Request:
            body = json.dumps({"name": model, "inputs": [value]})
            return Request(path="/predict", body=body, checks=[((0, "label"), list(labels))])

        yield System(name=name, port=port, pid=process.pid, ask=ask)


def _mlserver(place: Place, name: str, workers: int, *, pipeline: bool = False) -> Iterator[System]:
    home, folder = environment("mlserver", place.environments), place.work / "served"
    port, grpc = free_port(), free_port()
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "parallel_workers": workers, "debug": False,
        "metrics_endpoint": None,
    }  # fmt: skip
    _write(folder / "settings.json", settings)
    for model in place.names:
        parameters = {"uri": str(place.models / model / (PIPELINE if pipeline else ""))}
        runtime = "mlserver_sklearn.SKLearnModel" if pipeline else f"{_PACKAGE}.mlserver_runtime.Runtime"
        described = {"name": model, "implementation": runtime, "parameters": parameters}
        _write(folder / model / "model-settings.json", described)
    command = [str(home / "bin" / "mlserver"), "start", str(folder)]
    with server(command, _QUIET, f"http://127.0.0.1:{port}/v2/health/ready", place.work / "log") as process:
        yield System(name=name, port=port, pid=process.pid, ask=_ask_mlserver)


def _ask_mlserver(model: str, value: Input, labels: Sequence[str]) -> Request:
    if isinstance(value, Mapping):
        tensor = {"shape": [1, len(value)], "datatype": "FP64", "data": list(value.values())}
    else:
        tensor = {"shape": [1], "datatype": "BYTES", "data": [value]}
    body = json.dumps({"inputs": [{"name": "inputs", **tensor}]})
    return Request(path=f"/v2/models/{model}/infer", body=body, checks=[(("outputs", 0, "data", 0), list(labels))])


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _mlflow(place: Place, name: str) -> Iterator[System]:
    home, port = environment("mlflow", place.environments), free_port()
    (model,) = place.names
    saved = place.work / "model"
    variables = _QUIET | {"MLFLOW_TRACKING_URI": f"sqlite:///{place.work / 'mlflow.db'}"}
    saver = [str(home / "bin" / "python"), "-m", f"{_PACKAGE}.mlflow_model", str(place.models / model), str(saved)]
    done = subprocess.run(saver, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CannotStart(done.stderr[-500:])
    path = {"PATH": f"{home / 'bin'}:/usr/bin:/bin"}  # it starts uvicorn by its name
    options = ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    command = [str(home / "bin" / "mlflow"), "models", "serve", "-m", str(saved), *options]
    with server(command, variables | path, f"http://127.0.0.1:{port}/ping", place.work / "log") as process:
        yield System(name=name, port=port, pid=process.pid, ask=_ask_mlflow)


def _ask_mlflow(_model: str, value: Input, labels: Sequence[str]) -> Request:
    if isinstance(value, Mapping):
        frame: dict[str, object] = {"dataframe_split": {"columns": list(value), "data": [list(value.values())]}}
    else:
        frame = {"inputs": [value]}
    return Request(path="/invocations", body=json.dumps(frame), checks=[(PREDICTED, list(labels))])


MLSERVER = "MLServer, parallel_workers 0"
MLSERVER_WORKER = "MLServer, parallel_workers 1"
#: Its own runtime around a pipeline of scikit-learn, as its documentation serves a table.
MLSERVER_PIPELINE = "MLServer, scikit-learn runtime"
PEERS = (
    Peer(name=MLSERVER, start=lambda place, name: _mlserver(place, name, 0)),
    Peer(name=MLSERVER_WORKER, start=lambda place, name: _mlserver(place, name, 1)),
    Peer(name=MLSERVER_PIPELINE, start=lambda place, name: _mlserver(place, name, 0, pipeline=True), tables_only=True),
    Peer(name="MLflow", start=_mlflow, many=False),
    Peer(name="BentoML", start=_bentoml),
    Peer(name="FastAPI", start=_fastapi),
)
