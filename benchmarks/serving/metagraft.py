"""Metagraft's side: models adapted over HTTP, copies of them by the thousand, and the API as it is run in earnest."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from app.db import Database
from app.ids import new_id
from app.security import DEFAULT_PROJECT, SCOPES, create_key
from app.settings import Settings
from app.storage import make_storage
from app.tables import Job, Model, ModelAlias, ModelVersion
from benchmarks import processes
from benchmarks.learning.service import running_service
from benchmarks.serving.inputs import Material
from benchmarks.serving.load import Check, Request
from benchmarks.serving.systems import Input, System
from learning.artifact import dump_learner, load_learner
from learning.base_learner import BaseLearner
from learning.encoders.registry import Encoder, load_encoder
from learning.grafts import Graft, is_graftable
from learning.heads import LinearHead

NAME = "Metagraft"
JOB_SECONDS = 600.0
#: How far a copy's numbers are from the model's own, in parts of their mean size: others, with the same clear answers.
HEAD_NOISE, GRAFT_NOISE = 0.01, 0.002
#: What a process loads in the background once it answers.
ENCODED = ("text", "image")
#: A linear head, as peers serve it.
OPTIONS: dict[str, dict[str, Any]] = {"tabular": {"regularisation": 0.1}}
#: The model that a table gets by default: a linear head, a kernel and a forest.
DEFAULT_TABLE = "default-table"


@dataclass(frozen=True, kw_only=True)
class Home:
    """A data folder with adapted models, and the key that opens it."""

    folder: Path
    key: str

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.folder / "data")


def adapted(folder: Path, materials: dict[str, Material]) -> Home:
    """A service adapts a model to each of `materials`, named by its key, and is stopped."""
    folder.mkdir(parents=True)
    with running_service(folder, threads=0) as service:
        for name, material in materials.items():
            dataset = service.upload_file(name, material.file, material.content)
            options = OPTIONS.get(name.partition("-")[0], {})
            job = service.run(
                kind="adapt", dataset=dataset, model=name, strategy="target_only", options=options, seconds=JOB_SECONDS
            )
            if job["state"] != "succeeded":
                raise RuntimeError(f"adapting {name} {job['state']}: {job.get('error')}")
    home = Home(folder=folder, key="")
    with _database(home) as database, database.session() as session:
        _, key = create_key(session, project_id=DEFAULT_PROJECT, name="load", scopes=SCOPES)
        session.commit()
    return replace(home, key=key)


def learner_of(home: Home, name: str) -> BaseLearner:
    """The newest version of a model."""
    with _database(home) as database, database.session(read_only=True) as session:
        artifact = session.scalars(_newest(name)).one().artifact
    return load_learner(make_storage(home.settings).read(artifact))


def copied(home: Home, folder: Path) -> Home:
    """The same in another folder, to be changed."""
    shutil.copytree(home.folder, folder)
    return replace(home, folder=folder)


def multiply(home: Home, name: str, count: int, *, grafted: bool) -> list[str]:
    """Names of `count` copies of a model, each with weights of its own and, `grafted`, offsets of its encoder."""
    learner = learner_of(home, name)
    encoder = load_encoder(learner.encoder) if grafted else None
    storage, names = make_storage(home.settings), [f"{name}.{number}" for number in range(count)]
    with _database(home) as database, database.session() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        version = session.scalars(_newest(name)).one()
        rows = [model, version, session.get_one(Job, version.job_id)]
        session.expunge_all()
        for number, copy in enumerate(names):
            data = dump_learner(varied(learner, number, encoder))
            artifact = storage.put_bytes(data)
            session.add_all(_rows(rows, copy, artifact, len(data)))
        session.commit()
    return names


def _rows(originals: Sequence[Any], name: str, artifact: str, size: int) -> list[Any]:
    """Rows of a model, its version, its job and its alias like the original ones."""
    ids = {Model: new_id("mdl"), ModelVersion: new_id("mv"), Job: new_id("job")}
    changes: dict[type[Any], dict[str, Any]] = {
        Model: {"name": name},
        ModelVersion: {"model_id": ids[Model], "job_id": ids[Job], "artifact": artifact, "size_bytes": size},
        Job: {},
    }
    copies = []
    for original in originals:
        kind = type(original)
        values = {column.key: getattr(original, column.key) for column in kind.__mapper__.column_attrs}
        copies.append(kind(**values | {"id": ids[kind]} | changes[kind]))
    return [*copies, ModelAlias(model_id=ids[Model], alias="latest", number=1)]


def varied(learner: BaseLearner, seed: int, encoder: Encoder | None = None) -> BaseLearner:
    """The learner with a slightly other head, and under a small graft of the encoder where one is given."""
    generator = torch.Generator().manual_seed(seed)
    head = learner.pipeline.head
    noise_TF = torch.randn(head.weight_TF.shape, generator=generator, dtype=torch.float64)
    weight_TF = head.weight_TF + HEAD_NOISE * head.weight_TF.abs().mean() * noise_TF
    pipeline = replace(learner.pipeline, head=LinearHead(weight_TF=weight_TF, bias_T=head.bias_T))
    if encoder is None:
        return replace(learner, pipeline=pipeline)
    graft = _graft(encoder, generator)
    featuriser: Any = replace(pipeline.featuriser, graft=graft.digest)  # type: ignore[type-var]
    return replace(learner, pipeline=replace(pipeline, featuriser=featuriser), graft=graft)


def _graft(encoder: Encoder, generator: torch.Generator) -> Graft:
    if not is_graftable(encoder):
        raise ValueError(f"{encoder.name} takes no graft")
    points: dict[str, torch.Tensor] = encoder.graft_points()  # type: ignore[attr-defined]  # it is graftable
    offsets = {
        name: GRAFT_NOISE * value.abs().mean() * torch.randn(value.shape, generator=generator)
        for name, value in points.items()
    }
    return Graft(offsets=offsets).stored()


@contextmanager
def serving(home: Home, log: Path, *, name: str = NAME, **settings: object) -> Iterator[System]:
    """`metagraft api` as it comes, with a key and its metrics, and `settings` besides; its encoders are loaded."""
    log.mkdir(parents=True, exist_ok=True)
    before = _n_loaded(log)
    with processes.running(["api"], log, data_dir=home.folder / "data", **settings) as api:
        if settings.get("warm_up", True):
            processes.until(lambda: _n_loaded(log) >= before + len(ENCODED), processes.START_SECONDS)
        port = int(api.url.rpartition(":")[2])

        def ask(model: str, value: Input, labels: Sequence[str]) -> Request:
            checks: list[Check] = [(("predictions", 0, "label"), list(labels)), (("model",), [model])]
            headers = {"Authorization": f"Bearer {home.key}"}
            body = json.dumps({"inputs": [value]})
            return Request(path=f"/v1/models/{model}/predict", body=body, headers=headers, checks=checks)

        yield System(name=name, port=port, pid=api.process.pid, ask=ask)


def _n_loaded(log: Path) -> int:
    """Encoders that processes which write their log there have loaded."""
    file = log / "api.log"
    return file.read_text(errors="replace").count('"encoder_loaded"') if file.exists() else 0


@contextmanager
def _database(home: Home) -> Iterator[Database]:
    database = Database(home.settings)
    try:
        yield database
    finally:
        database.dispose()


def _newest(name: str) -> Any:
    of_model = select(ModelVersion).join(Model, Model.id == ModelVersion.model_id).where(Model.name == name)
    return of_model.order_by(ModelVersion.number.desc()).limit(1)
