"""The encoders of one process: loaded once, used by one thread at a time each."""

import threading
from collections import OrderedDict, defaultdict
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import cast

import structlog
import torch
from torch import Tensor

from app.settings import Settings
from learning.encoders.image import ImageEncoder
from learning.encoders.packed_bert import PackedBert
from learning.encoders.registry import Encoder, default_encoder, encoder_info, list_encoders, load_encoder
from learning.encoders.text import TextEncoder
from learning.errors import IncompatibleDomain, InvalidOptions, LearningError
from learning.grafts import Graft, Graftable, is_graftable
from learning.mixing import MixedEncoder, as_mixed
from learning.onnx.image_runtime import can_run, image_runtime

#: Encoders under a graft that are kept: each is a copy of the normalisation layers, of an image encoder of all of it.
MAX_GRAFTED = 8

log = structlog.get_logger(__name__)


class Encoders:
    """Encoders by name, loaded on first use."""

    def __init__(self, settings: Settings) -> None:
        self.device = resolve_device(settings.device)
        # Not asked when an encoder is loaded: the thread that loads it may be one that computes alone.
        self._n_threads = settings.torch_threads or torch.get_num_threads()
        self._is_half = settings.serving_precision == "bf16"
        self._half: dict[str, Encoder] = {}
        self._folder = settings.cache_dir / "onnx"
        self._extra = {name.strip() for name in settings.extra_encoders.split(",")}
        self._loaded: dict[str, Encoder] = {}
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._grafted: OrderedDict[tuple[str, str], Encoder] = OrderedDict()
        self._grafting = threading.Lock()
        self._points: dict[str, dict[str, Tensor]] = {}
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def check(self, name: str, modality: str) -> None:
        """Raises `InvalidOptions` where a client may not use the encoder, or not for this modality.

        A family (`hf:…`, `timm:…`) reads files and fetches weights, so the operator names its members in the settings.
        """
        info = encoder_info(name)
        if info.modality != modality:
            raise InvalidOptions(f"encoder '{name}' is for {info.modality}, the data is {modality}", hint=_known())
        if ":" in name and name not in self._extra:
            hint = f"{_known()}; an operator allows others by METAGRAFT_EXTRA_ENCODERS"
            raise InvalidOptions(f"encoder '{name}' is not enabled here", hint=hint)

    def get(self, name: str) -> Encoder:
        """The encoder, loading it if need be.

        Raises:
            InvalidOptions: it is unknown or cannot be loaded.
        """
        if name not in self._loaded:
            with self._loading[name]:
                if name not in self._loaded:
                    self._loaded[name] = self._faster(load_encoder(name, device=self.device))
                    log.info("encoder_loaded", encoder=name, device=self.device)
        return self._loaded[name]

    def check_revision(self, name: str, fitted_on: str) -> None:
        """Raises `IncompatibleDomain` where this installation has another revision than a model was fitted on."""
        encoder = self.get(name)
        if fitted_on != encoder.revision:
            raise IncompatibleDomain(
                f"the model was fitted on revision {fitted_on} of {name}, this installation has {encoder.revision}",
                hint="adapt the model again",
            )

    def _faster(self, encoder: Encoder) -> Encoder:
        """The encoder with its runtime, where it has one of its own on this machine."""
        if not isinstance(encoder, ImageEncoder) or not can_run(encoder):
            return encoder
        try:
            return replace(encoder, runtime=image_runtime(encoder, self._folder, threads=self._n_threads))
        except (LearningError, OSError) as error:
            log.warning("encoder_without_runtime", encoder=encoder.name, reason=str(error))
            return encoder

    def has_own_threads(self, name: str) -> bool:
        """Whether the encoder runs outside torch, on threads that are not torch's. Raises as `get`."""
        encoder = self.get(name)
        return isinstance(encoder, ImageEncoder) and encoder.runtime is not None

    def grafted(self, name: str, graft: Graft | None) -> Encoder:
        """The encoder under `graft` (None: as it is). The latest few are kept.

        Raises:
            InvalidOptions: it is unknown or cannot be loaded.
            IncompatibleDomain: the graft belongs to another encoder.
        """
        encoder = self.get(name)
        if graft is None:
            return encoder
        key = (name, graft.digest)
        with self._grafting:
            if key not in self._grafted:
                if not is_graftable(encoder):
                    raise IncompatibleDomain(
                        f"encoder '{name}' takes no graft", hint="meta-train again on this encoder"
                    )
                self._grafted[key] = cast("Graftable", encoder).grafted(graft)
            self._grafted.move_to_end(key)
            while len(self._grafted) > MAX_GRAFTED:
                self._grafted.popitem(last=False)
            return self._grafted[key]

    def mixed(self, name: str) -> MixedEncoder:
        """The encoder as one whose batches may mix grafts, which every encoder of the registry is. Raises as `get`."""
        return as_mixed(self.get(name))

    def serving(self, name: str) -> MixedEncoder:
        """`mixed` as predictions use it: in half precision where the settings say so. Raises as `get`."""
        encoder = self.get(name)
        if not self._is_half or not isinstance(encoder, TextEncoder) or encoder.packed is None:
            return as_mixed(encoder)
        with self._grafting:
            if name not in self._half:
                self._half[name] = replace(encoder, packed=PackedBert.of(encoder.module, dtype=torch.bfloat16))
            return as_mixed(self._half[name])

    def points(self, name: str) -> dict[str, Tensor]:
        """What a graft of the encoder moves, in the order of a flat graft. Raises as `get`."""
        if name not in self._points:
            self._points[name] = self.mixed(name).graft_points()
        return self._points[name]

    def turn(self, name: str) -> AbstractContextManager[bool]:
        """Held while encoding: threads that encode at once only slow each other down."""
        return self._turns[name]

    def load_defaults(self) -> None:
        for modality in ("text", "image"):
            try:
                encoder = self.get(default_encoder(modality))
                _ = encoder.revision
            except LearningError as error:
                log.warning("encoder_not_loaded", modality=modality, reason=str(error))


def resolve_device(device: str) -> str:
    """`device`, where `auto` is the first GPU if there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _known() -> str:
    return "encoders: " + ", ".join(info.name for info in list_encoders() if info.available and not info.is_family)
