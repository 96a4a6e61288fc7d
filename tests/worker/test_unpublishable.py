"""Models that must not be published: the job fails with a code that says why, and leaves nothing behind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sqlalchemy import func, select

from app.dependencies import Services
from app.inference.features import FeatureCache
from app.tables import MetaLearner, Model, ModelVersion
from learning import adaptation, artifact
from learning.assembly import assemble
from learning.choice import Choice
from learning.encoders.registry import default_encoder
from learning.usefulness import make_warning
from tests.jobs import csv, submit, upload
from worker.draining import Drain
from worker.runner import Runner

GOOD, BAD = ["a fine day", "a good day", "well done", "all is fine"], ["a bad day", "all is bad", "done badly", "no"]


class Encoder:
    """Two numbers of a text, which are not finite where it says so."""

    name = default_encoder("text")
    modality, width, revision = "text", 2, "0"

    def encode(
        self, inputs: list[str], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        rows = [[float("nan") if "NaN" in text else len(text), text.count("a") + 1.0] for text in inputs]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    def ready(self, inputs: list[str]) -> list[str]:
        return inputs

    def size_of(self, ready: str) -> int:
        return len(ready)

    def encode_mixed(self, ready: list[str], grafts: list[None]) -> torch.Tensor:
        return self.encode(ready)


@pytest.fixture
def services(client: Any) -> Services:
    services: Services = client.app.state.services
    services.inference.encoders._loaded[Encoder.name] = Encoder()  # type: ignore[assignment]
    return services


def _upload(client: Any, *more: str) -> str:
    rows = [f"{text},{label}" for label, texts in (("good", GOOD), ("bad", BAD)) for text in texts]
    data = "\n".join(["text,label", *rows, *more]).encode()
    return upload(client, f"texts {len(more)}", data, modality="text")


def _run(client: Any, services: Services, **body: Any) -> dict[str, Any]:
    job_id = submit(client, **{"kind": "adapt", "model": "m", "strategy": "target_only"} | body)["id"]
    Runner(services, ["adapt", "train"], Drain()).run(job_id)
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


def _check_failed(services: Services, job: dict[str, Any], code: str, n_datasets: int = 1) -> None:
    assert (job["state"], job["attempt"], job["error"]["code"], job["result"]) == ("failed", 1, code, None)
    assert 400 <= job["error"]["status"] < 500
    with services.database.session(read_only=True) as session:
        for table in (Model, ModelVersion, MetaLearner):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert len(list(services.storage.blobs())) == n_datasets


def test_nothing_is_published_when_an_encoder_makes_no_finite_features(client: Any, services: Services) -> None:
    job = _run(client, services, dataset=_upload(client, "NaN it is,bad"))
    _check_failed(services, job, "non_finite_features")
    space = FeatureCache.space(Encoder.name, Encoder.revision)
    assert list((services.inference.features.root / space).glob("*")) == []


def test_nothing_is_published_when_a_source_has_no_finite_features(client: Any, services: Services) -> None:
    target, source = _upload(client), _upload(client, "NaN too,good")
    job = _run(client, services, dataset=target, sources=[source], strategy="metric")
    _check_failed(services, job, "non_finite_features", n_datasets=2)


def test_only_the_input_without_finite_features_is_refused_when_predicting(client: Any, services: Services) -> None:
    assert _run(client, services, dataset=_upload(client))["state"] == "succeeded"
    answer = client.post("/v1/models/m/predict", json={"inputs": ["a fine day", "NaN it is", "no"]})
    first, second, third = answer.json()["predictions"]
    assert (answer.status_code, second["error"]["code"]) == (200, "non_finite_features")
    assert {"label"} <= first.keys() & third.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_published_when_a_parameter_is_not_finite(
    client: Any, services: Services, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def diverged(*arguments: Any, **named: Any) -> Any:
        learner = assemble(*arguments, **named)
        head = replace(learner.pipeline.head, weight_TF=learner.pipeline.head.weight_TF * value)
        return replace(learner, pipeline=replace(learner.pipeline, head=head))

    monkeypatch.setattr(adaptation, "assemble", diverged)
    _check_failed(services, _run(client, services, dataset=upload(client)), "non_finite_model")


def test_nothing_is_published_when_held_out_answers_are_not_finite(
    client: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choice, "scored", property(_without_answers), raising=True)
    _check_failed(services, _run(client, services, dataset=upload(client)), "non_finite_model")


def _without_answers(choice: Any) -> dict[str, Any]:
    scored = choice.contest.scored
    return {
        name: replace(one, held_out=replace(one.held_out, outputs_ST=one.held_out.outputs_ST * float("nan")))
        for name, one in scored.items()
    }


def test_nothing_is_published_when_a_meta_learner_is_not_finite(
    client: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = artifact._meta_learner_parts

    def diverged(learner: Any) -> Any:
        tensors, header = parts(learner)
        return tensors | {"parameters.affinity_3": torch.full((3,), float("nan"))}, header

    monkeypatch.setattr(artifact, "_meta_learner_parts", diverged)
    sources = [upload(client, f"s{number}", csv(shift=number, rows=40, seed=number)) for number in range(2)]
    options = {"steps": 1, "evaluation_episodes": 4, "evaluation_shots": [1]}
    job_id = submit(client, kind="meta_train", name="ml", sources=sources, options=options)["id"]
    Runner(services, ["adapt", "train"], Drain()).run(job_id)
    _check_failed(services, client.get(f"/v1/jobs/{job_id}").json(), "non_finite_model", n_datasets=2)


def test_nothing_is_published_when_a_model_is_worse_than_the_majority(
    client: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        adaptation, "usefulness_warnings", lambda *_: [make_warning("worse_than_majority", "Worse than guessing.")]
    )
    _check_failed(services, _run(client, services, dataset=upload(client)), "useless_model")


def test_alias_tells_the_warnings_of_the_version_it_names(client: Any, services: Services) -> None:
    chance = b"a,label\n1,x\n2,y\n3,x\n4,y\n5,x\n6,y\n"  # of six rows even all right may be chance
    assert _run(client, services, dataset=upload(client, data=csv(rows=40)))["state"] == "succeeded"
    assert _run(client, services, dataset=upload(client, "chance", chance))["state"] == "succeeded"
    url = "/v1/models/m/aliases/champion"
    first = client.put(url, json={"version": 1})
    second = client.put(url, json={"version": 2}, headers={"If-Match": first.headers["ETag"]})
    codes = [{warning["code"] for warning in answer.json()["warnings"]} for answer in (first, second, client.get(url))]
    assert ["may_be_chance" in found for found in codes] == [False, True, True]
    assert client.post(f"{url}/rollback").json()["warnings"] == first.json()["warnings"]
