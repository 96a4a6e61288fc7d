"""Exported models of texts and images: the encoder comes along, under the model's graft."""

import io
import json
import subprocess
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from app.inference.engine import InferenceEngine
from app.models.export import archive
from app.settings import Settings
from app.storage import Storage, make_storage
from app.tables import Model, ModelVersion
from learning.artifact import dump_learner, load_learner
from learning.errors import IncompatibleDomain
from learning.featurisers import FittedCentring
from learning.grafts import Graft
from tests.app.adapted import adapted, encoded
from tests.app.exported import assert_alike, run_alone

TEXTS = ["a lovely film", "wonderful acting", "i enjoyed it", "a dull film", "terrible acting", "i hated it"]
QUERIES = ["what a wonderful film", "Ünïcode und 日本語, " * 90, "?", "meh"]
LABELS: dict[str, list[Any]] = {
    "classification": ["good"] * 3 + ["bad"] * 3,
    "regression": [5.0, 4.5, 4.0, 1.0, 1.5, 0.5],
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return make_storage(Settings(data_dir=tmp_path_factory.mktemp("engine")))


@pytest.fixture(scope="module")
def engine(storage, tmp_path_factory) -> InferenceEngine:
    return InferenceEngine(Settings(data_dir=tmp_path_factory.mktemp("engine")), storage)


def pictures(seed: int = 0) -> list[bytes]:
    """Noise of several shapes, modes and formats."""
    random = np.random.default_rng(seed)
    shades = [random.integers(0, 256, (40 + 7 * i, 60, 3), dtype=np.uint8) // (1 + i % 3) for i in range(6)]
    images = [Image.fromarray(shade) for shade in shades]
    images[1] = images[1].convert("RGBA")
    images[2] = Image.fromarray((shades[2][:, :, 0].astype(np.uint16)) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [("PNG", {}), ("PNG", {}), ("PNG", {}), ("JPEG", {"exif": turned}), ("GIF", {}), ("WEBP", {})]
    return [written(image, kind, **options) for image, (kind, options) in zip(images, kinds, strict=True)]


def written(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fitted(engine, storage, modality, task, *, grafted) -> str:
    """The artifact of a model; `grafted`: of an encoder whose normalisation layers were all moved."""
    inputs = [*TEXTS, *(f"{text}, really" for text in TEXTS)] if modality == "text" else pictures(0) + pictures(1)
    outcome = adapted(engine, replace(encoded(modality, inputs, LABELS[task] * 2), task=task))
    if not grafted:
        return str(storage.put_bytes(outcome.artifact))
    learner = load_learner(outcome.artifact)
    random = torch.Generator().manual_seed(0)
    points = engine.encoders.get(learner.encoder).graft_points()
    graft = Graft(offsets={k: 0.05 * torch.randn(v.shape, generator=random) for k, v in points.items()}).stored()
    featuriser = replace(cast("FittedCentring", learner.pipeline.featuriser), graft=graft.digest)
    moved = replace(learner, graft=graft, pipeline=replace(learner.pipeline, featuriser=featuriser))
    return str(storage.put_bytes(dump_learner(moved)))


def zipped(engine, storage, artifact):
    learner = engine.serving.models.get(artifact).learner
    model = Model(name="m", modality=learner.modality, task=learner.task)
    version = ModelVersion(
        number=1, strategy="target_only", encoder=learner.encoder, dataset="ds_1", report={}, lineage={},
        artifact=artifact, created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    with engine.exporter.turn():
        return archive(model, version, storage.read(artifact), engine.exporter.files(artifact))


@pytest.mark.parametrize(("task", "grafted"), [("classification", True), ("regression", False)])
def test_exported_command_answers_texts_as_the_service(engine, storage, tmp_path, task, grafted):
    artifact = fitted(engine, storage, "text", task, grafted=grafted)
    with zipped(engine, storage, artifact) as file:
        zipfile.ZipFile(file).extractall(tmp_path)
    found = [json.loads(line) for line in run_alone(tmp_path, *QUERIES)]
    assert_alike(found, engine.predict(artifact, QUERIES))


def test_exported_command_says_what_is_wrong_when_a_text_is_empty(engine, storage, tmp_path):
    artifact = fitted(engine, storage, "text", "classification", grafted=False)
    with zipped(engine, storage, artifact) as file:
        zipfile.ZipFile(file).extractall(tmp_path)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_alone(tmp_path, QUERIES[0], " \n")
    assert caught.value.stderr == "predict.py: the text is empty\n"


@pytest.mark.parametrize(("task", "grafted"), [("classification", True), ("regression", False)])
def test_exported_command_answers_images_as_the_service(engine, storage, tmp_path, task, grafted):
    artifact = fitted(engine, storage, "image", task, grafted=grafted)
    with zipped(engine, storage, artifact) as file:
        zipfile.ZipFile(file).extractall(tmp_path)
    images = pictures()
    for place, image in enumerate(images):
        (tmp_path / f"{place}.image").write_bytes(image)
    found = [json.loads(line) for line in run_alone(tmp_path, *(f"{place}.image" for place in range(len(images))))]
    assert_alike(found, engine.predict(artifact, images))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_export_of_an_encoded_model_gives_the_same_bytes_each_time(engine, storage, modality, tmp_path):
    artifact = fitted(engine, storage, modality, "classification", grafted=True)
    with (
        zipped(engine, storage, artifact) as file,
        zipped(InferenceEngine(engine.settings, storage), storage, artifact) as again,
    ):
        assert file.seek(0) == again.seek(0)
        assert file.read() == again.read()


def test_exported_graph_is_valid_and_names_no_file_of_the_machine(engine, storage, tmp_path):
    with zipped(engine, storage, fitted(engine, storage, "image", "classification", grafted=False)) as file:
        graph = zipfile.ZipFile(file).read("model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert b".py" not in graph


def test_export_says_what_to_do_when_the_encoder_is_of_another_revision(engine, storage):
    learner = load_learner(storage.read(fitted(engine, storage, "text", "classification", grafted=False)))
    artifact = storage.put_bytes(dump_learner(replace(learner, encoder_revision="0" * 12)))
    with pytest.raises(IncompatibleDomain) as caught:
        engine.exporter.files(artifact)
    assert caught.value.hint
