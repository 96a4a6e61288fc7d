"""Encoders as ONNX models: raw bytes of pixels, or tokens, to unit features.

An encoder is traced once. Its graph without weights takes kilobytes and is filled with those of the rootstock or of the
encoder under any graft, whose normalisation layers are all that differs.

Letters in shape suffixes besides those of `learning.types`: B batch, L tokens, H height, W width (pixels).
"""

from dataclasses import dataclass
from typing import cast

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from learning.encoders.image import ImageEncoder
from learning.encoders.registry import Encoder
from learning.encoders.text import TextEncoder
from learning.errors import IncompatibleDomain
from learning.grafts import Graft, Graftable, is_graftable
from learning.onnx.tracing import Axes, trace

#: Protocol buffers end at two gigabytes; the rest of a model needs little.
MAX_WEIGHT_BYTES = 2**31 - 2**26
FEATURES = "features"
_WEIGHT = "module."


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderGraph:
    """The graph of an encoder, whose weights are inputs of it."""

    model: onnx.ModelProto
    encoder: Encoder

    def under(self, graft: Graft | None) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
        """The graph, and the weights to fill it with.

        Raises:
            IncompatibleDomain: the graft belongs to another encoder, or the weights are too large for an ONNX file.
        """
        if graft is not None and not is_graftable(self.encoder):
            raise IncompatibleDomain(f"encoder '{self.encoder.name}' takes no graft", hint="adapt the model again")
        worn = self.encoder if graft is None else cast("Graftable", self.encoder).grafted(graft)
        state = cast("TextEncoder | ImageEncoder", worn).module.state_dict()
        names = [value.name for value in self.model.graph.input if value.name.startswith(_WEIGHT)]
        weights = {name: state[name.removeprefix(_WEIGHT)] for name in names}
        size = sum(value.numel() * value.element_size() for value in weights.values())
        if size > MAX_WEIGHT_BYTES:
            raise IncompatibleDomain(
                f"encoder '{self.encoder.name}' has {size:,} bytes of weights, an ONNX file holds {MAX_WEIGHT_BYTES:,}",
                hint="use it through the service",
            )
        return self.model, weights


def encoder_graph(encoder: Encoder) -> EncoderGraph:
    """The graph of a text or image encoder of `learning.encoders`. Nothing else may use the encoder meanwhile.

    Text: `input_ids` and `attention_mask`, (B, L) int64, padded as `TextEncoder.pad` does. Image: `pixels`,
    (B, H, W, 3) bytes of the squares that `learning.standalone.image_reading` makes. Output: `features`, (B, width).

    Raises:
        IncompatibleDomain: torch's exporter cannot write this encoder.
    """
    outputs = {FEATURES: {0: "batch"}}
    what = f"encoder '{encoder.name}'"
    if isinstance(encoder, TextEncoder):
        tokens = encoder.pad(encoder.tokenise(["two texts", "of unequal length"]))
        inputs: Axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
        model = trace(encoder.features, tokens, inputs, outputs, module=encoder.module, what=what)
    elif isinstance(encoder, ImageEncoder):
        pixels = torch.zeros(2, encoder.size, encoder.size, 3, dtype=torch.uint8, device=encoder.device)

        def features(bytes_BHW3: Tensor) -> Tensor:
            return encoder.features(encoder.normalised(bytes_BHW3))

        model = trace(features, [pixels], {"pixels": {0: "batch"}}, outputs, module=encoder.module, what=what)
    else:
        raise IncompatibleDomain(f"{what} is of no kind that is exported", hint="use it through the service")
    return EncoderGraph(model=model, encoder=encoder)


def encoder_model(encoder: Encoder, graft: Graft | None = None) -> onnx.ModelProto:
    """The encoder under a graft as an ONNX model, weights included; see `encoder_graph` and `EncoderGraph.under`."""
    graph, weights = encoder_graph(encoder).under(graft)
    return filled(graph, weights)


def filled(model: onnx.ModelProto, weights: dict[str, Tensor]) -> onnx.ModelProto:
    """A copy of the graph in which those of its inputs that are weights have their values."""
    model, graph = onnx.ModelProto.FromString(model.SerializeToString()), model.graph
    kept = [value for value in graph.input if value.name not in weights]
    model.graph.ClearField("input")
    model.graph.input.extend(kept)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
    return model
