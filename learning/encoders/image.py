"""Image rootstocks: EfficientNet-Lite0, and any timm model when timm is installed.

Letters in shape suffixes besides those of `learning.types`: B batch, H height, W width (pixels), 3 colour channels.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from learning.errors import InvalidData, InvalidOptions
from learning.grafts import Graft, check_fits, graft_points, with_graft
from learning.mixing import FlatGraft, GraftedRows, GraftLayout, grafted_rows, per_row
from learning.standalone.image_reading import READABLE, UnreadableImage, decode, square, upright_rgb
from learning.types import Modality

PREPROCESSING = "bicubic centre square, version 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class TurnedImage:
    """An image to be turned by quarter turns once it is a square."""

    image: "RawImage"
    quarters: int


#: An array is a square that was decoded before.
RawImage = Image.Image | bytes | TurnedImage | NDArray[np.uint8]


class PixelRuntime(Protocol):
    """Another way to run an encoder's network."""

    def encode(self, pixels_BHW3: NDArray[np.uint8], grafted: GraftedRows | None) -> Tensor:
        """(B, width) unit rows of squares, each under its graft."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageEncoder:
    """A frozen image backbone; implements `learning.grafts.Graftable` and `learning.mixing.MixedEncoder`.

    `module` maps (B, 3, H, W) normalised pixels to (B, width) pooled features, not yet of unit length. A pixel byte x
    of channel c enters as (x - offset[c]) / scale[c]. `fingerprint` computes the hash behind `revision`, on first use.
    `unfolded` loads the backbone with its normalisation layers, which `module` may have merged away; `fold` merges
    them in place. `runtime` computes the same features faster, where there is one.
    """

    name: str
    module: nn.Module
    width: int
    size: int
    offset: tuple[float, float, float]
    scale: tuple[float, float, float]
    device: str
    fingerprint: Callable[[], str]
    unfolded: Callable[[], nn.Module]
    fold: Callable[[nn.Module], None] = lambda _module: None
    runtime: "PixelRuntime | None" = None
    modality: Modality = "image"

    @cached_property
    def revision(self) -> str:
        return self.fingerprint()

    @cached_property
    def _open_module(self) -> nn.Module:
        return self.unfolded()

    def pixels(self, inputs: Sequence[RawImage], *, first_row: int = 0) -> Tensor:
        """(B, 3, size, size) float32 on the encoder's device, channels last, normalised as the backbone expects.

        Raises:
            InvalidData: an input is broken or no image; the message counts rows from 1, starting after `first_row`.
        """
        squares = np.stack(self._squares(inputs, first_row))
        return self.normalised(torch.from_numpy(squares).to(self.device))

    def _squares(self, inputs: Sequence[RawImage], first_row: int) -> list[NDArray[np.uint8]]:
        return [_named_square(image, self.size, first_row + i) for i, image in enumerate(inputs, start=1)]

    def normalised(self, bytes_BHW3: Tensor) -> Tensor:
        """(B, 3, H, W) float32, as the backbone expects them, of the pixels' bytes."""
        offset_3 = torch.tensor(self.offset, device=self.device)
        scale_3 = torch.tensor(self.scale, device=self.device)
        return ((bytes_BHW3 - offset_3) / scale_3).permute(0, 3, 1, 2)

    def features(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, width) unit rows of normalised pixels."""
        pooled_BF: Tensor = self.module(pixels_B3HW)
        return nn.functional.normalize(pooled_BF.float(), dim=1)

    def graft_points(self) -> dict[str, Tensor]:
        return graft_points(self._open_module)

    def prepare(self, inputs: Sequence[RawImage], *, limit: int | None = None) -> list[RawImage]:  # noqa: ARG002
        """The images as they are: a decoded one takes a hundred times the memory. See `Graftable.prepare`."""
        return list(inputs)

    def size_of(self, prepared: RawImage) -> int:  # noqa: ARG002 - every image becomes a square of one size
        return 1

    def turned(self, prepared: RawImage, quarters: int) -> RawImage:
        """See `Graftable.turned`."""
        return TurnedImage(image=prepared, quarters=quarters) if quarters else prepared

    def differentiate(
        self, prepared: Sequence[RawImage], values: Mapping[str, Tensor], *, jitter: torch.Generator | None = None
    ) -> Tensor:
        """(B, width) unit rows; see `Graftable.differentiate`."""
        pixels_B3HW = self.pixels(prepared)
        if jitter is not None:
            pixels_B3HW = distorted(pixels_B3HW, jitter)
        pooled_BF: Tensor = functional_call(self._open_module, dict(values), (pixels_B3HW,))
        return nn.functional.normalize(pooled_BF.float(), dim=1)

    @cached_property
    def _layout(self) -> GraftLayout:
        return GraftLayout(points=self.graft_points())

    @cached_property
    def _per_row(self) -> nn.Module:
        return per_row(self._open_module)

    def ready(self, inputs: Sequence[RawImage]) -> list[NDArray[np.uint8]]:
        """Each image as (size, size, 3) bytes; see `MixedEncoder.ready`."""
        return self._squares(inputs, 0)

    def encode_mixed(self, ready: Sequence[RawImage], grafts: Sequence[FlatGraft | None]) -> Tensor:
        """(B, width) unit rows; see `MixedEncoder.encode_mixed`."""
        with torch.inference_mode():
            grafted = grafted_rows(grafts, self._layout.root)
            if self.runtime is not None:
                return self.runtime.encode(np.stack(self.ready(ready)), grafted)
            pixels_B3HW = self.pixels(ready)
            if grafted is None:
                return self.features(pixels_B3HW).cpu()
            pooled_BF = functional_call(self._per_row, self._layout.of_rows(grafted), (pixels_B3HW,))
            return nn.functional.normalize(pooled_BF.float(), dim=1).cpu()

    def grafted(self, graft: Graft) -> "ImageEncoder":
        check_fits(graft, self.graft_points(), self.name)
        module = with_graft(self._open_module, graft)
        self.fold(module)
        return replace(
            self,
            module=module,
            runtime=None,
            fingerprint=lambda: f"{self.revision}-{graft.digest}",
            unfolded=lambda: with_graft(self._open_module, graft),
        )

    def encode(
        self, inputs: Sequence[RawImage], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """(N, width) float32 unit rows of PIL images or encoded bytes; see `Encoder.encode`."""
        # Made outside inference mode, so that heads may differentiate through operations on it.
        features_NF = torch.empty(len(inputs), self.width)
        for start in range(0, len(inputs), batch_size):
            stop = min(start + batch_size, len(inputs))
            squares = self._squares(inputs[start:stop], start)
            features_NF[start:stop] = self.encode_mixed(squares, [None] * len(squares))
            if progress is not None:
                progress(stop)
        return features_NF


def distorted(pixels_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned up to 10 degrees, stretched and sheared up to 15 %, moved up to 8 % of its side, at random."""
    u_B6 = torch.rand(len(pixels_B3HW), 6, generator=generator) * 2 - 1
    angle_B = u_B6[:, 0] * math.pi / 18
    stretch_B2 = (0.15 * u_B6[:, 1:3]).exp()
    shear_B, shift_B2 = 0.15 * u_B6[:, 3], 0.16 * u_B6[:, 4:]  # the side is 2 long in these coordinates
    across_B, along_B = stretch_B2.unbind(1)
    row_x_B3 = torch.stack([angle_B.cos() * across_B, shear_B - angle_B.sin() * along_B, shift_B2[:, 0]], dim=1)
    row_y_B3 = torch.stack([angle_B.sin() * across_B, angle_B.cos() * along_B, shift_B2[:, 1]], dim=1)
    maps_B23 = torch.stack([row_x_B3, row_y_B3], dim=1).to(pixels_B3HW.device)
    grid_BHW2 = nn.functional.affine_grid(maps_B23, list(pixels_B3HW.shape), align_corners=False)
    moved_B3HW = nn.functional.grid_sample(pixels_B3HW, grid_BHW2, padding_mode="border", align_corners=False)
    return moved_B3HW.contiguous(memory_format=torch.channels_last)


def decode_image(data: bytes, *, max_pixels: int = 50_000_000) -> Image.Image:
    """An upright 8-bit RGB image of the first frame; transparency is laid on white.

    The dimensions are checked before any pixel is decoded.

    Raises:
        InvalidData: broken, of an unsupported format or pixel type, or of more than `max_pixels` pixels.
    """
    with _reading():
        return decode(data, max_pixels=max_pixels)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except UnreadableImage as error:
        raise InvalidData(str(error), hint=error.hint) from error


def load_timm(model: str, *, device: str = "cpu") -> ImageEncoder:
    """The pooled features of a pretrained timm model, resized and normalised as its own configuration says.

    Raises:
        InvalidOptions: timm does not know `model`, or its weights can neither be found nor fetched.
    """
    timm = import_module("timm")
    try:
        module: nn.Module = timm.create_model(model, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise InvalidOptions(f"timm cannot load '{model}': {error}") from error
    wanted = timm.data.resolve_model_data_config(module)
    mean, std = ([255.0 * value for value in wanted[key]] for key in ("mean", "std"))
    return ImageEncoder(
        name=f"timm:{model}",
        module=module.to(device, memory_format=torch.channels_last).requires_grad_(False).eval(),  # type: ignore[call-overload]
        width=int(cast("Any", module).num_features),
        size=int(wanted["input_size"][-1]),
        offset=(mean[0], mean[1], mean[2]),
        scale=(std[0], std[1], std[2]),
        device=device,
        fingerprint=lambda: _state_revision(module),
        unfolded=lambda: module,
    )


def _state_revision(module: nn.Module) -> str:
    digest = hashlib.sha256(PREPROCESSING.encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _named_square(image: RawImage, size: int, row: int) -> NDArray[np.uint8]:
    try:
        return _square(image, size)
    except InvalidData as error:
        raise InvalidData(f"image {row}: {error}", hint=error.hint) from error


def _square(image: RawImage, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) bytes: the largest centred square of the image, scaled."""
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, TurnedImage):
        return np.rot90(_square(image.image, size), image.quarters)
    if not isinstance(image, bytes | Image.Image):
        raise InvalidData(f"expected a PIL image or encoded bytes, got {type(image).__name__}", hint=READABLE)
    with _reading():
        return square(decode(image) if isinstance(image, bytes) else upright_rgb(image), size)
