"""What a client of the REST API needs: upload, start a job, follow it, predict."""

import time
from collections.abc import Sequence
from typing import Any, Self

import httpx
from demo_data import Upload
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

POLL_SECONDS = 0.25
JOB_SECONDS = 270
BATCH = 50


class DemoError(Exception):
    """Something that the demo reports to its reader instead of a traceback."""


class RefusedError(DemoError):
    """The service declined to publish a model that is no better than guessing; an answer, not a malfunction."""


class Client:
    """A thin layer over httpx; every answer that is not a success raises `DemoError` with the problem's own words."""

    def __init__(self, base_url: str, console: Console) -> None:
        # The service is on loopback, where a proxy from the environment has no business.
        self._http = httpx.Client(base_url=base_url, timeout=120, trust_env=False)
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, upload: Upload) -> str:
        """The id of the dataset that was made of the file."""
        files = {"file": (upload.filename, upload.content)}
        answer = self._send("POST", "/v1/datasets", files=files, data={"name": upload.name, **upload.fields})
        return str(answer["id"])

    def run(self, title: str, job: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """The job's result, and the seconds from posting it to seeing it done. Raises `RefusedError` or `DemoError`."""
        started = time.monotonic()
        answer = self._send("POST", "/v1/jobs", json=job)
        with _progress(self._console) as progress:
            bar = progress.add_task(title, total=1.0, phase="", eta="")
            while answer["state"] in {"queued", "running"}:
                if time.monotonic() - started > JOB_SECONDS:
                    raise DemoError(f"{title}: not done after {JOB_SECONDS} s, last seen {answer['state']}")
                time.sleep(POLL_SECONDS)
                answer = self._send("GET", f"/v1/jobs/{answer['id']}")
                _show(progress, bar, answer)
        seconds = time.monotonic() - started
        if answer["state"] != "succeeded":
            error = answer.get("error") or {}
            if error.get("code") == "useless_model":
                self._console.print(f"  {title:<28} refused: {error.get('detail')}", markup=False, highlight=False)
                raise RefusedError(error.get("detail"))
            raise DemoError(f"{title}: job {answer['state']}\n{_explain(error)}")
        self._console.print(f"  {title:<28} {seconds:6.1f} s")
        return dict(answer["result"]), seconds

    def predict(self, model: str, version: int, inputs: Sequence[Any]) -> list[str]:
        """The predicted labels, in the order of the inputs: bytes travel as multipart files, all else as JSON."""
        path = f"/v1/models/{model}/versions/{version}/predict"
        labels: list[str] = []
        for start in range(0, len(inputs), BATCH):
            answer = self._send("POST", path, **_predict_body(inputs[start : start + BATCH]))
            labels += [_label(item) for item in answer["predictions"]]
        if len(labels) != len(inputs):
            raise DemoError(f"{path}: {len(inputs)} inputs gave {len(labels)} predictions")
        return labels

    def _send(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._http.request(method, path, **arguments)
        if response.is_success:
            return dict(response.json())
        try:
            problem = response.json()
        except ValueError:
            problem = {"detail": response.text[:500]}
        raise DemoError(f"{method} {path} answered {response.status_code}\n{_explain(problem)}")


def _predict_body(inputs: Sequence[Any]) -> dict[str, Any]:
    if isinstance(inputs[0], bytes):
        return {"files": [("files", (f"{i}.png", png, "image/png")) for i, png in enumerate(inputs)]}
    return {"json": {"inputs": list(inputs)}}


def _label(prediction: dict[str, Any]) -> str:
    if prediction.get("error"):
        raise DemoError(f"a prediction failed: {prediction['error']}")
    return str(prediction["label"])


def _explain(problem: dict[str, Any]) -> str:
    """The lines a person needs from an application/problem+json body."""
    lines = [f"{problem.get('code', 'error')}: {problem.get('detail') or problem.get('title') or 'no detail given'}"]
    for error in (problem.get("errors") or [])[:10]:
        places = [f"{key} {error[key]}" for key in ("pointer", "row", "column") if error.get(key) is not None]
        lines.append(f"  {' '.join(places) or error.get('code', '')}: {error.get('message', '')}")
    return "\n".join(lines)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]} {task.fields[phase]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _show(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    eta = job.get("eta_seconds")
    progress.update(
        bar,
        completed=job.get("progress") or 0.0,
        phase=job.get("phase") or job["state"],
        eta="" if eta is None else f"about {eta:.0f} s left,",
    )
