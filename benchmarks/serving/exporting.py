"""An adapted model as the folder that peers load: its very weights, with what stands before the head folded in."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from benchmarks.serving.peers.running import PIPELINE
from learning.base_learner import BaseLearner
from learning.encoders.fitted_columns import NumericColumn
from learning.encoders.tabular import FittedQuantileFeaturiser
from learning.featurisers import FittedCentring


def export(learner: BaseLearner, folder: Path) -> Path:
    """Writes `model.json` and `weights.npz`; see `benchmarks.serving.peers.served`.

    Raises:
        ValueError: the model is more than one linear head on one encoder, which peers here could not answer alike.
    """
    weights, header = _parts(learner)
    folder.mkdir(parents=True, exist_ok=True)
    common = {"modality": learner.modality, "classes": learner.classes, "temperature": learner.temperature}
    (folder / "model.json").write_text(json.dumps(common | header))
    arrays: dict[str, Any] = {name: tensor.float().numpy() for name, tensor in weights.items()}
    np.savez(folder / "weights.npz", **arrays)
    return folder


def export_pipeline(table: bytes, folder: Path) -> Path:
    """`model.joblib`: what scikit-learn makes of a CSV of numbers and a label, in the form closest to ours.

    Quantile scores and a logistic regression, fitted on the same rows; its own weights, therefore.
    """
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    labels = [row.pop("label") for row in rows]
    scores = QuantileTransformer(n_quantiles=min(64, len(rows)), output_distribution="normal")
    pipeline = make_pipeline(scores, StandardScaler(), LogisticRegression())
    pipeline.fit(np.array([[float(value) for value in row.values()] for row in rows]), labels)
    joblib.dump(pipeline, folder / PIPELINE)
    return folder / PIPELINE


def _parts(learner: BaseLearner) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    head, fitted = learner.pipeline.head, learner.pipeline.featuriser
    if learner.pipeline.parameters is not None or learner.graft is not None:
        raise ValueError("the model has a learned metric or a graft")
    if isinstance(fitted, FittedQuantileFeaturiser):
        return _columns(fitted) | {"weight": head.weight_TF, "bias": head.bias_T}, _numbers(fitted)
    if not isinstance(fitted, FittedCentring) or len(fitted.directions_KF):
        raise ValueError(f"a {type(fitted).__name__} stands before the head")
    weight_TF = head.weight_TF * fitted.scale
    return {"weight": weight_TF, "bias": head.bias_T - weight_TF @ fitted.mean_F.double()}, {}


def _numeric(fitted: FittedQuantileFeaturiser) -> list[NumericColumn]:
    columns = [column for column in fitted.columns if isinstance(column, NumericColumn) and not column.indicator]
    if len(columns) < len(fitted.columns) or len(fitted.fourier_phase_R):
        raise ValueError("the table has columns that are not plain numbers")
    return columns


def _columns(fitted: FittedQuantileFeaturiser) -> dict[str, torch.Tensor]:
    columns = list(enumerate(_numeric(fitted)))
    knots = {f"knots_{i}": torch.from_numpy(column.knots_K) for i, column in columns}
    return knots | {f"scores_{i}": torch.from_numpy(column.scores_K) for i, column in columns}


def _numbers(fitted: FittedQuantileFeaturiser) -> dict[str, object]:
    columns = _numeric(fitted)
    numbers = [(c.centre, c.scale, c.quantile_weight, c.limit) for c in columns]
    return {"columns": [column.name for column in columns], "numbers": numbers}
