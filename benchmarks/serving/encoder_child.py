"""One encoder in a process of its own, asked by lines of JSON: which inputs, in batches of what size.

    python -m benchmarks.serving.encoder_child metagraft|onnxruntime text|image

It answers with the seconds that encoding took, and with the first features of each row for a comparison. Texts come as
texts and images as base64; `decoded`: an image is decoded before the clock starts. Both sides tokenise alike and put
texts of like length into one batch.
"""

import base64
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import structlog
import torch
from PIL import Image

from app.inference.encoders import Encoders
from app.settings import Settings
from learning.encoders.image import ImageEncoder
from learning.encoders.registry import default_encoder, load_encoder
from learning.encoders.text import TextEncoder

Encode = Callable[[Sequence[Any], int], Any]


def _metagraft(modality: str) -> Encode:
    """The encoder as the service runs it."""
    with TemporaryDirectory() as folder:
        encoder = Encoders(Settings(data_dir=Path(folder))).get(default_encoder(cast("Any", modality)))

    def encode(inputs: Sequence[Any], batch_size: int) -> Any:
        return encoder.encode(inputs, batch_size=batch_size).numpy()

    return encode


def _onnxruntime(modality: str) -> Encode:
    """The encoder's graph in fp32, every optimisation of it, and as many threads as torch has."""
    encoder = load_encoder(default_encoder(cast("Any", modality)))
    if isinstance(encoder, TextEncoder):
        return _onnx_text(encoder)
    return _onnx_image(cast("ImageEncoder", encoder))


def _session(model: torch.nn.Module, example: tuple[torch.Tensor, ...], names: Sequence[str], axes: Any) -> Any:
    runtime = import_module("onnxruntime")
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "encoder.onnx")
        torch.onnx.export(
            model.eval(), example, path, input_names=list(names), output_names=["features"], dynamic_axes=axes,
            opset_version=17, dynamo=False,
        )  # fmt: skip
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class _Pooled(torch.nn.Module):
    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self._module = encoder.module

    def forward(self, tokens_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        states_BLF = self._module(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state
        weight_BL1 = mask_BL.unsqueeze(-1).to(states_BLF.dtype)
        pooled_BF = (states_BLF * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)
        return torch.nn.functional.normalize(pooled_BF, dim=1)


def _onnx_text(encoder: TextEncoder) -> Encode:
    shape = {0: "rows", 1: "tokens"}
    axes = {"tokens": shape, "mask": shape, "features": {0: "rows"}}
    session = _session(_Pooled(encoder), encoder.pad([[101, 7592, 102], [101, 102]]), ("tokens", "mask"), axes)

    def encode(inputs: Sequence[Any], batch_size: int) -> Any:
        tokens = encoder.tokenise(inputs)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        features_NF = np.empty((len(tokens), encoder.width), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens_BL, mask_BL = encoder.pad([tokens[row] for row in rows])
            given = {"tokens": tokens_BL.numpy(), "mask": mask_BL.numpy()}
            features_NF[rows] = session.run(None, given)[0]
        return features_NF

    return encode


def _onnx_image(encoder: ImageEncoder) -> Encode:
    example = (torch.zeros(2, 3, encoder.size, encoder.size),)
    session = _session(encoder.module, example, ("pixels",), {"pixels": {0: "rows"}, "features": {0: "rows"}})

    def encode(inputs: Sequence[Any], batch_size: int) -> Any:
        parts = []
        for start in range(0, len(inputs), batch_size):
            pixels_B3HW = encoder.pixels(inputs[start : start + batch_size]).contiguous()
            parts.append(session.run(None, {"pixels": pixels_B3HW.numpy()})[0])
        features_NF = np.concatenate(parts)
        return features_NF / np.linalg.norm(features_NF, axis=1, keepdims=True)

    return encode


_BACKENDS = {"metagraft": _metagraft, "onnxruntime": _onnxruntime}


def _input(value: str, modality: str, *, decoded: bool) -> Any:
    """A text, the bytes of an image file, or the image decoded and as small as the encoder wants it."""
    if modality == "text":
        return value
    file = base64.b64decode(value)
    return Image.open(BytesIO(file)).convert("RGB").resize((224, 224)) if decoded else file


def main() -> None:
    backend, modality = sys.argv[1:]
    # What is logged must not get between the lines of JSON.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    encode = _BACKENDS[backend](modality)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        inputs = [_input(value, modality, decoded=question["decoded"]) for value in question["inputs"]]
        began = time.perf_counter()
        features_NF = encode(inputs, int(question["batch_size"]))
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "features": [round(float(x), 5) for x in features_NF[:, :4].ravel()]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
