"""Encoders as ONNX graphs, under a graft and without."""

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from learning.encoders.image import ImageEncoder
from learning.errors import IncompatibleDomain
from learning.grafts import Graft
from learning.onnx.encoder_graph import encoder_graph, encoder_model
from tests.learning.tiny_encoder import TinyEncoder


class Backbone(nn.Module):
    """Two normalisation layers whose weights are equal, as those of an untrained encoder are, and one that differs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.GroupNorm(1, 3), nn.GroupNorm(1, 3), nn.GroupNorm(3, 3)
        nn.init.constant_(self.third.weight, 0.7)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled: Tensor = self.third(self.second(self.first(pixels).relu()).tanh()).amax(dim=(2, 3))
        return pooled


class Unwritable(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cumprod(pixels.flatten(2), dim=2)[:, :, -1].erfinv()


def tiny(module: nn.Module) -> ImageEncoder:
    module = module.requires_grad_(False).eval()
    return ImageEncoder(
        name="tiny", module=module, width=3, size=6, offset=(100.0, 110.0, 120.0), scale=(50.0, 60.0, 70.0),
        device="cpu", fingerprint=lambda: "tiny", unfolded=lambda: module,
    )  # fmt: skip


@pytest.mark.parametrize("moved", [None, "first.weight", "third.bias"])
def test_encoder_model_encodes_as_the_encoder_under_its_graft(moved):
    encoder = tiny(Backbone())
    offsets = {name: torch.zeros_like(value) for name, value in encoder.graft_points().items()}
    graft = None if moved is None else Graft(offsets=offsets | {moved: torch.tensor([0.5, -0.2, 0.1])})
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    session = InferenceSession(encoder_model(encoder, graft).SerializeToString())
    worn = encoder if graft is None else encoder.grafted(graft)
    expected = worn.features(worn.normalised(torch.from_numpy(pixels)))
    for part in (pixels, pixels[:1]):
        np.testing.assert_allclose(session.run(None, {"pixels": part})[0], expected[: len(part)], atol=1e-5)


def test_encoder_graph_says_so_when_the_exporter_cannot_write_an_encoder():
    with pytest.raises(IncompatibleDomain, match="encoder 'tiny' cannot be written") as caught:
        encoder_graph(tiny(Unwritable()))
    assert caught.value.hint


def test_encoder_graph_says_so_when_an_encoder_is_of_another_kind():
    with pytest.raises(IncompatibleDomain, match="of no kind that is exported"):
        encoder_graph(TinyEncoder())
