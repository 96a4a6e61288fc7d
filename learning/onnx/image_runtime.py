"""An image encoder's network in ONNX Runtime, which on a CPU is faster at it than torch.

Two graphs: one with the normalisation layers folded into the convolutions, for the rootstock, and one that takes each
row's scales and shifts, for grafts. They are traced once and kept as files.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learning.encoders.image import ImageEncoder
from learning.errors import IncompatibleDomain
from learning.mixing import GraftedRows, GraftLayout, per_row
from learning.onnx.encoder_graph import FEATURES, encoder_model, filled
from learning.onnx.tracing import trace

_WEIGHT = "module."
#: Changes when the graphs do.
_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRuntime:
    """Sessions of ONNX Runtime; safe for threads."""

    folded: Any
    mixed: Any

    def encode(self, pixels_BHW3: NDArray[np.uint8], grafted: GraftedRows | None) -> Tensor:
        """(B, width) unit rows of squares, each under its graft."""
        if grafted is None:
            (features,) = self.folded.run([FEATURES], {"pixels": pixels_BHW3})
        else:
            values_BP = grafted.values_GP[grafted.graft_B].numpy()
            (features,) = self.mixed.run([FEATURES], {"pixels": pixels_BHW3, "values": values_BP})
        return torch.from_numpy(features)


def can_run(encoder: ImageEncoder) -> bool:
    """Whether ONNX Runtime is installed and the encoder is on the CPU, and has normalisation layers."""
    return encoder.device == "cpu" and find_spec("onnxruntime") is not None and bool(encoder.graft_points())


def image_runtime(encoder: ImageEncoder, folder: Path, *, threads: int) -> ImageRuntime:
    """The runtime of an encoder that can be run so; graphs are read from `folder`, or traced and left there.

    Raises:
        IncompatibleDomain: torch's exporter cannot write this encoder.
    """
    stem = f"{encoder.name}-{encoder.revision}-{_VERSION}".replace("/", "_").replace(":", "_")
    return ImageRuntime(
        folded=_session(folder / f"{stem}-folded.onnx", lambda: encoder_model(encoder), threads),
        mixed=_session(folder / f"{stem}-mixed.onnx", lambda: mixed_model(encoder), threads),
    )


def mixed_model(encoder: ImageEncoder) -> onnx.ModelProto:
    """`pixels`, (B, H, W, 3) bytes, and `values`, (B, P) scales and shifts, to `features`, (B, width) unit rows."""
    layout = GraftLayout(points=encoder.graft_points())
    module = per_row(encoder.unfolded())
    layers = dict(module.named_modules())
    places = {name: (layers[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in layout.points}
    for layer, part in places.values():
        del layer._parameters[part]  # noqa: SLF001 - what the tracer holds must not change under it

    def features(bytes_BHW3: Tensor, values_BP: Tensor) -> Tensor:
        for name, value_BC in layout.split(values_BP).items():
            layer, part = places[name]
            layer.__dict__[part] = value_BC
        pooled_BF: Tensor = module(encoder.normalised(bytes_BHW3))
        return nn.functional.normalize(pooled_BF.float(), dim=1)

    pixels = torch.zeros(2, encoder.size, encoder.size, 3, dtype=torch.uint8)
    inputs = {"pixels": {0: "batch"}, "values": {0: "batch"}}
    model = trace(
        features, [pixels, layout.root.repeat(2, 1)], inputs, {FEATURES: {0: "batch"}}, module=module,
        what=f"encoder '{encoder.name}'",
    )  # fmt: skip
    state = module.state_dict()
    names = [value.name for value in model.graph.input if value.name.startswith(_WEIGHT)]
    return filled(model, {name: state[name.removeprefix(_WEIGHT)] for name in names})


def _session(path: Path, make: Callable[[], onnx.ModelProto], threads: int) -> Any:
    """A session on the file; where there is none, or one that cannot be read, it is made."""
    try:
        return _opened(path, threads)
    except (OSError, RuntimeError):
        _write(path, make().SerializeToString())
    try:
        return _opened(path, threads)
    except RuntimeError as error:
        raise IncompatibleDomain(f"ONNX Runtime cannot run the graph: {error:.300}") from error


def _opened(path: Path, threads: int) -> Any:
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # its errors share no class of their own
        raise RuntimeError(str(error)) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(name).replace(path)
