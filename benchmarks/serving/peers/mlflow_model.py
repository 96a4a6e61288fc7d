"""A pyfunc flavour of MLflow around one model.

    python -m benchmarks.serving.peers.mlflow_model MODEL_FOLDER DESTINATION

saves the model in MLflow's form.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.peers.served import Answer, Model, load


class Pyfunc:
    """What MLflow calls with what it made of a request."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[Answer]:  # noqa: ARG002 - MLflow's
        """`data` is a DataFrame of numbers or of one column of texts, or a list of texts."""
        rows = data.to_numpy().tolist() if hasattr(data, "to_numpy") else list(data)
        if rows and isinstance(rows[0], list) and isinstance(rows[0][0], str):
            rows = [row[0] for row in rows]
        return self._model.predict(rows)


def _load_pyfunc(path: str) -> Pyfunc:
    """By this name MLflow finds it."""
    return Pyfunc(load(Path(path)))


def main() -> None:
    import mlflow  # noqa: PLC0415 - the server finds it loaded already

    source, destination = sys.argv[1:]
    mlflow.pyfunc.save_model(path=destination, loader_module=_MODULE, data_path=source)


_MODULE = "benchmarks.serving.peers.mlflow_model"

if __name__ == "__main__":
    main()
