"""Answers of one adapted model, without the service that adapted it.

    python predict.py INPUT…        one JSON object per input, in order
    … | python predict.py           one input per line, as JSON

An input is a text, the path of an image, or a row as a JSON object, whichever the model takes. As a module:

    from predict import Model
    Model().predict([…])            the same, as a list of dicts

It needs what requirements.txt names, and the files beside it.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Feed = dict[str, np.ndarray[Any, Any]]


class Model:
    """The model in `folder`, by default that of this file. Predicting changes nothing: threads may share it."""

    def __init__(self, folder: Path | str | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        folder = Path(__file__).parent if folder is None else Path(folder)
        self.card: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=list(providers))
        self._names = [output.name for output in self._session.get_outputs()]
        readers: dict[str, type[_TextReader | _ImageReader | _TableReader]]
        readers = {"text": _TextReader, "image": _ImageReader, "tabular": _TableReader}
        self._read = readers[self.card["modality"]](self.card["reading"], folder)

    def predict(self, inputs: Sequence[Any], *, top_k: int = 5, batch_size: int = 32) -> list[dict[str, Any]]:
        """One answer per input: texts, images (paths or bytes), or rows as mappings.

        Classification: label, probability, the `top_k` likeliest of probabilities, prediction_set. Regression: value
        and interval, whose ends are None where the support was too small for them. Always: ood_score, abstain.

        Raises:
            ValueError: an input is not what this model takes.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(inputs), batch_size):
            outputs = self._session.run(self._names, self._read(inputs[start : start + batch_size]))
            rows = (dict(zip(self._names, row, strict=True)) for row in zip(*outputs, strict=True))
            found.extend(self._answer(row, top_k) for row in rows)
        return found

    def _answer(self, row: dict[str, Any], top_k: int) -> dict[str, Any]:
        familiarity = {"ood_score": round(float(row["ood_score"]), 6), "abstain": bool(row["abstain"])}
        if "value" in row:
            ends = [float(end) if math.isfinite(end) else None for end in row["interval"]]
            return {"value": float(row["value"]), "interval": ends, **familiarity}
        classes, probabilities = self.card["classes"], row["probabilities"]
        order = np.argsort(-probabilities, kind="stable").tolist()
        return {
            "label": classes[order[0]],
            "probability": float(probabilities[order[0]]),
            "probabilities": {classes[i]: float(probabilities[i]) for i in order[:top_k]},
            "prediction_set": [classes[i] for i in order if row["prediction_set"][i]],
            **familiarity,
        }


class _TextReader:
    def __init__(self, reading: dict[str, Any], folder: Path) -> None:
        self._tokenizer = import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._pad = int(reading["pad_token"])

    def __call__(self, inputs: Sequence[Any]) -> Feed:
        if not all(isinstance(text, str) for text in inputs):
            raise ValueError("this model takes texts")
        if not all(text.strip() for text in inputs):
            raise ValueError("the text is empty")
        # Lone surrogates, which JSON can carry, cannot be encoded as UTF-8.
        texts = [text.encode("utf-8", errors="replace").decode("utf-8") for text in inputs]
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        shape = len(tokens), max(1, *map(len, tokens))
        ids, mask = np.full(shape, self._pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(tokens):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}


class _ImageReader:
    def __init__(self, reading: dict[str, Any], _folder: Path) -> None:
        self._size = int(reading["size"])

    def __call__(self, inputs: Sequence[Any]) -> Feed:
        from learning.standalone.image_reading import decode, square  # noqa: PLC0415 - only images need Pillow

        if not all(isinstance(image, str | Path | bytes) for image in inputs):
            raise ValueError("this model takes images: their paths, or their bytes")
        data = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in inputs]
        return {"pixels": np.stack([square(decode(image), self._size) for image in data])}


class _TableReader:
    def __init__(self, reading: dict[str, Any], _folder: Path) -> None:
        self._kinds: dict[str, str] = reading["kinds"]
        arrays = ("knots", "scores")
        self._columns = [
            {key: np.array(value, dtype=np.float64) if key in arrays else value for key, value in column.items()}
            for column in reading["columns"]
        ]

    def __call__(self, inputs: Sequence[Any]) -> Feed:
        from learning.standalone.table_reading import table_features  # noqa: PLC0415 - only tables have columns

        if not all(isinstance(row, dict) for row in inputs):
            raise ValueError("this model takes rows as mappings from column to value")
        return {"features": table_features(inputs, self._kinds, self._columns)}


def _inputs(model: Model, arguments: Sequence[str]) -> Iterator[Any]:
    is_table = model.card["modality"] == "tabular"
    if arguments:
        yield from (json.loads(argument) if is_table else argument for argument in arguments)
    else:
        yield from (json.loads(line) for line in sys.stdin if line.strip())


def main() -> None:
    """The command; see the top of this file."""
    model = Model()
    try:
        for answer in model.predict(list(_inputs(model, sys.argv[1:]))):
            sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
