"""A base learner as files that answer without torch and without this package: see `learning.standalone.predict`."""

import json
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import version
from typing import Any, cast

from learning.base_learner import BaseLearner
from learning.encoders.fitted_columns import CategoricalColumn, NumericColumn
from learning.encoders.image import ImageEncoder
from learning.encoders.tabular import FittedQuantileFeaturiser
from learning.encoders.text import TextEncoder
from learning.onnx.answers_graph import learner_model
from learning.onnx.encoder_graph import EncoderGraph
from learning.stacking import FittedStack

_PACKAGE = "learning.standalone"
_MODULES = {"text": (), "image": ("image_reading",), "tabular": ("table_reading",)}
_LIBRARIES = {"text": ("tokenizers",), "image": ("pillow",), "tabular": ()}


def bundle(learner: BaseLearner, encoder: EncoderGraph | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files, the model first; equal learners give equal files. `encoder`: None of a table.

    Raises:
        IncompatibleDomain: the learner cannot be written as an ONNX graph; before the first file.
    """
    yield "model.onnx", learner_model(learner, encoder).SerializeToString(deterministic=True)
    yield "model.json", (json.dumps(_card(learner, encoder), indent=1, ensure_ascii=False) + "\n").encode()
    if learner.modality == "text":
        yield "tokenizer.json", cast("TextEncoder", encoder.encoder if encoder else None).tokenizer.to_str().encode()
    for module in ("predict", *_MODULES[learner.modality]):
        source = resources.files(_PACKAGE).joinpath(f"{module}.py").read_text(encoding="utf-8")
        # There the files lie side by side.
        yield f"{module}.py", source.replace(f"from {_PACKAGE}.", "from ").encode()
    libraries = [f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", *_LIBRARIES[learner.modality])]
    yield "requirements.txt", "\n".join([*libraries, ""]).encode()


def _card(learner: BaseLearner, encoder: EncoderGraph | None) -> dict[str, Any]:
    """What `predict.py` has to know beside the graph."""
    known = {"modality": learner.modality, "task": learner.task, "classes": learner.classes}
    return known | {"reading": _table_reading(learner) if encoder is None else _encoder_reading(encoder)}


def _encoder_reading(graph: EncoderGraph) -> dict[str, Any]:
    encoder = cast("TextEncoder | ImageEncoder", graph.encoder)
    return {"size": encoder.size} if isinstance(encoder, ImageEncoder) else {"pad_token": encoder.pad_token}


def _table_reading(learner: BaseLearner) -> dict[str, Any]:
    featuriser = learner.pipeline.featuriser
    table = featuriser.table if isinstance(featuriser, FittedStack) else cast("FittedQuantileFeaturiser", featuriser)
    return {"kinds": learner.columns, "columns": [column_header(column) for column in table.columns]}


def column_header(column: NumericColumn | CategoricalColumn) -> dict[str, Any]:
    """A fitted column as `learning.standalone.table_reading` takes it, as JSON."""
    header: dict[str, Any] = column.header()
    if isinstance(column, NumericColumn):
        header |= {"knots": column.knots_K.tolist(), "scores": column.scores_K.tolist()}
    return header
