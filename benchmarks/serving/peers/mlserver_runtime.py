"""A custom runtime of MLServer around one model."""

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.serving.peers.served import load


class Runtime(MLModel):  # type: ignore[misc]  # seen only in the peer's environment
    """One input tensor: texts and base64 of images (BYTES, one each), or rows of numbers (FP64)."""

    async def load(self) -> bool:
        self._model = load(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        inputs = list(tensor.data)
        if tensor.datatype == "FP64":
            inputs = np.asarray(inputs, dtype=np.float64).reshape(tensor.shape).tolist()
        answers = self._model.predict(inputs)
        labels, probabilities = ([answer[name] for answer in answers] for name in ("label", "probability"))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="label", shape=[len(answers)], datatype="BYTES", data=labels),
                ResponseOutput(name="probability", shape=[len(answers)], datatype="FP64", data=probabilities),
            ],
        )
