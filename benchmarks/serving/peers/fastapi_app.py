"""The plain route: FastAPI and uvicorn around the models of a folder, and nothing else."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.peers.served import TabularModel, load_all

app = FastAPI()
models = load_all(Path(os.environ["SERVED_MODELS"]))


class Body(BaseModel):
    inputs: list[Any]


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/models/{name}/predict")
def predict(name: str, body: Body) -> dict[str, Any]:
    """Of tables an input is an object, as it is for Metagraft."""
    model, inputs = models[name], body.inputs
    if isinstance(model, TabularModel):
        inputs = [[row[column] for column in model.columns] for row in inputs]
    return {"predictions": model.predict(inputs)}
