"""Functions of tensors as ONNX graphs, by torch's tracing exporter."""

import io
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn

from learning.errors import IncompatibleDomain

OPSET = 18
#: What the exporter and the modules that it traces raise where they meet what it cannot write.
_UNWRITABLE = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, torch.onnx.OnnxExporterError)
#: The exporter keeps its state in globals.
_ONE_AT_A_TIME = threading.Lock()

#: Of every input and output: its axes that may be of any length, by name.
Axes = Mapping[str, Mapping[int, str]]


class _Traced(nn.Module):
    """`function` as a module, with the weights of `module` under the prefix "module."."""

    def __init__(self, function: Callable[..., Any], module: nn.Module | None) -> None:
        super().__init__()
        self.function = function
        self.module = module

    def forward(self, *arguments: Tensor) -> Any:
        return self.function(*arguments)


def trace(
    function: Callable[..., Any], arguments: Sequence[Tensor], inputs: Axes, outputs: Axes,
    *, module: nn.Module | None = None, what: str,
) -> onnx.ModelProto:  # fmt: skip
    """`function` as a graph. Weights of `module` become inputs of their own after `inputs`, named as in its state.

    Raises:
        IncompatibleDomain: the exporter cannot write `what`.
    """
    file = io.BytesIO()
    with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it warns of every Python number that it takes for a constant
        try:
            torch.onnx.export(
                _Traced(function, module).eval(), tuple(arguments), cast("Any", file), dynamo=False,
                opset_version=OPSET, do_constant_folding=False,
                # The second keeps it from making one weight of two that are equal now and may not stay so.
                export_params=False, keep_initializers_as_inputs=True,
                input_names=list(inputs), output_names=list(outputs), dynamic_axes={**inputs, **outputs},
            )  # fmt: skip
        except _UNWRITABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IncompatibleDomain(
                f"{what} cannot be written as an ONNX graph: {reason:.300}", hint="use it through the service"
            ) from error
    model = onnx.load_from_string(file.getvalue())
    model.ClearField("metadata_props")
    return model
