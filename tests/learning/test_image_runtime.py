"""An image encoder's network in ONNX Runtime."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from learning.encoders.image import ImageEncoder
from learning.encoders.registry import load_encoder
from learning.grafts import Graft
from learning.mixing import flattened
from learning.onnx.image_runtime import can_run, image_runtime

PICTURES = [Image.linear_gradient("L").rotate(30 * i).convert("RGB") for i in range(4)]


@pytest.fixture(scope="module")
def plain() -> ImageEncoder:
    return load_encoder("efficientnet-lite0-64")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def faster(plain: ImageEncoder, folder: Path) -> ImageEncoder:
    assert can_run(plain)
    return replace(plain, runtime=image_runtime(plain, folder, threads=1))


def graft_of(encoder: ImageEncoder, seed: int) -> Graft:
    generator = torch.Generator().manual_seed(seed)
    points = encoder.graft_points()
    return Graft(
        offsets={name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in points.items()}
    ).stored()


def test_runtime_computes_the_same_features(plain: ImageEncoder, faster: ImageEncoder):
    torch.testing.assert_close(faster.encode(PICTURES), plain.encode(PICTURES), rtol=0, atol=1e-5)


def test_runtime_computes_each_row_under_its_own_graft(plain: ImageEncoder, faster: ImageEncoder):
    grafts = [graft_of(plain, seed) for seed in (1, 2)]
    flat = [None, *(flattened(graft, plain.graft_points(), plain.name) for graft in grafts)]
    under = [plain, *(plain.grafted(graft) for graft in grafts)]
    rows = [0, 2, 1, 2]
    alone = torch.cat([under[place].encode([picture]) for place, picture in zip(rows, PICTURES, strict=True)])
    mixed = faster.encode_mixed(faster.ready(PICTURES), [flat[place] for place in rows])
    torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)


def test_encoder_under_a_graft_does_not_use_the_rootstocks_runtime(plain: ImageEncoder, faster: ImageEncoder):
    graft = graft_of(plain, 1)
    torch.testing.assert_close(
        faster.grafted(graft).encode(PICTURES), plain.grafted(graft).encode(PICTURES), rtol=0, atol=1e-5
    )


def test_graphs_are_kept_and_a_damaged_one_is_made_again(plain: ImageEncoder, faster: ImageEncoder, folder: Path):
    assert faster.runtime is not None
    files = sorted(folder.iterdir())
    before = [(file.name, file.stat().st_mtime_ns) for file in files]
    image_runtime(plain, folder, threads=1)
    assert [(file.name, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())] == before
    files[0].write_bytes(files[0].read_bytes()[:1_000])
    again = replace(plain, runtime=image_runtime(plain, folder, threads=1))
    torch.testing.assert_close(again.encode(PICTURES), plain.encode(PICTURES), rtol=0, atol=1e-5)
    assert [file.name for file in sorted(folder.iterdir())] == [file.name for file in files]


def test_encoder_on_a_gpu_has_no_runtime(plain: ImageEncoder):
    assert not can_run(replace(plain, device="cuda"))
