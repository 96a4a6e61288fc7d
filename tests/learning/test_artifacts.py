"""Artifacts that were damaged, mixed up or made up: each is refused with the one documented error."""

import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load, save

from learning.artifact import dump_learner, dump_meta_learner, load_learner, load_meta_learner
from learning.envelope import read_header
from learning.errors import InvalidArtifact, NonFiniteModel
from tests.learning.damages import NAMES, artifacts, cases, resealed, unsealed, void
from tests.learning.problems import blobs, run

#: A refusal may take so much memory: the artifacts have some ten thousand bytes.
MOST_BYTES = 50 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_damaged_artifact_is_refused_with_the_one_error_and_little_memory(name: str) -> None:
    _, read = artifacts()[name]
    damaged = cases(name)
    tracemalloc.start()
    try:
        for kind, data in damaged:
            try:
                read(data)
            except InvalidArtifact:
                continue
            except Exception as error:
                raise AssertionError(f"{kind}: {error!r} instead of InvalidArtifact") from error
            pytest.fail(f"{kind}: loaded")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_sound_artifact_is_read_and_written_again_to_the_same_bytes(name: str) -> None:
    data, read = artifacts()[name]
    dump: Callable[[Any], bytes] = dump_meta_learner if read is load_meta_learner else dump_learner
    assert dump(read(data)) == data


@pytest.mark.parametrize("name", NAMES)
def test_artifact_from_before_the_seal_is_read_still(name: str) -> None:
    data, read = artifacts()[name]
    dump: Callable[[Any], bytes] = dump_meta_learner if read is load_meta_learner else dump_learner
    assert dump(read(unsealed(data))) == data


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_is_under_the_seal(name: str) -> None:
    data, read = artifacts()[name]
    draw = random.Random(0)
    for place in draw.sample(range(len(data)), 100):
        damaged = bytearray(data)
        damaged[place] ^= 0x20  # what turns lower case into upper, and a hexadecimal digit into itself
        with pytest.raises(InvalidArtifact):
            read(bytes(damaged))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_model_that_is_not_finite_is_never_written(value: float) -> None:
    data, _ = artifacts()["classifier"]
    with pytest.raises(NonFiniteModel):
        resealed(data, lambda tensors, _: void(tensors["head.bias_T"].fill_(value)))
    with pytest.raises(NonFiniteModel):
        resealed(data, lambda _, header: header.update(temperature=value))


@pytest.mark.parametrize("text", ['seal": "' + "0" * 64, '\\"seal\\": \\"' + "0" * 64, "0" * 64])
def test_class_that_looks_like_a_seal_is_only_a_class(text: str) -> None:
    learner = run("target_only", blobs(7, 4, classes=("bad", "fine", text))).learner
    data = dump_learner(learner)
    assert load_learner(data).classes == learner.classes
    assert dump_learner(load_learner(data)) == data


def test_unknown_format_says_what_to_do() -> None:
    data, read = artifacts()["classifier"]
    newer = save(load(data), metadata={"metagraft": json.dumps(read_header(data) | {"format_version": 4})})
    with pytest.raises(InvalidArtifact, match="format 4") as error:
        read(newer)
    assert "install the version" in error.value.hint


def test_artifact_from_before_the_seal_is_refused_when_it_says_more_than_those_did() -> None:
    data, read = artifacts()["classifier"]
    header = read_header(unsealed(data)) | {"seam": "0" * 64}
    with pytest.raises(InvalidArtifact):
        read(save(load(data), metadata={"metagraft": json.dumps(header)}))


def test_artifact_that_answers_no_finite_numbers_is_refused() -> None:
    data, read = artifacts()["table"]
    broken = resealed(data, lambda tensors, _: void(tensors["featuriser.kernel_dual"].fill_(3e38)))
    with pytest.raises(InvalidArtifact):
        read(broken)
