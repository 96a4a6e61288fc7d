"""A BentoML service around the models of a folder."""

import os
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.serving.peers.served import TabularModel, load_all


@bentoml.service
class Served:
    """All models in each of its workers; there is one by default."""

    def __init__(self) -> None:
        self._models = load_all(Path(os.environ["SERVED_MODELS"]))

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, name: str, inputs: list[Any]) -> list[dict[str, Any]]:
        """Of tables an input is an object, as it is for Metagraft."""
        model = self._models[name]
        if isinstance(model, TabularModel):
            inputs = [[row[column] for column in model.columns] for row in inputs]
        return model.predict(inputs)
