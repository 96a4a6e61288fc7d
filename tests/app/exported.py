"""Exported models, run where the service is not."""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

#: Importing what an exported model must not need fails.
_ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "safetensors", "learning", "app", "onnx"]))
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, *arguments: str, script: str = "predict.py", stdin: str = "") -> list[str]:
    """The lines that the script prints in a Python that sees its folder and the installed libraries alone."""
    # Without `site` nothing reads the file that puts the checkout on the path.
    environment = {"PYTHONPATH": sysconfig.get_path("platlib"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", _ALONE, script, *arguments],
        cwd=folder, env=environment, input=stdin, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return done.stdout.splitlines()


def assert_alike(found: Sequence[dict[str, Any]], served: Sequence[dict[str, Any]], tolerance: float = 1e-4) -> None:
    """Whether the exported model answered as the service, which also tells evidence and leaves fields empty."""
    assert len(found) == len(served)
    for own, answer in zip(found, served, strict=True):
        expected = {name: value for name, value in answer.items() if name != "evidence" and value is not None}
        assert own.keys() == expected.keys() - {"error"}
        for name, value in own.items():
            assert value == (expected[name] if name in _WORDS else pytest.approx(expected[name], abs=tolerance)), name


_WORDS = {"label", "prediction_set", "abstain"}
