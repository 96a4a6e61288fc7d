"""A version as one zip that runs without the service. The same version gives the same bytes."""

import json
import shlex
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import IO, Any

from app.errors import ArtifactCorrupted
from app.tables import Model, ModelVersion

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20
_MAX_HEADER = 100 * 2**20

_README = """\
# {name}, version {number}

{modality} {task}, strategy {strategy}, encoder {encoder}.

## Run it

With Python 3.11 or newer and the packages of requirements.txt, which need neither the service nor PyTorch:

    pip install -r requirements.txt
    python predict.py {example}

It prints one JSON object per input: the service's own answers. Where an input is none that the model takes, it says
what is wrong with it instead. In a program, with this folder on its path:

```python
from predict import Model

print(Model().predict([{value}]))
```

- predict.py: the command and the class above{beside}
- model.onnx: {graph}
- model.json: the classes and how inputs are read{tokenizer}
- header.json: what the model is and where it comes from
- graft.safetensors: the adapted model without its encoder, as the service stores it

model.onnx runs in any ONNX runtime: {interface}.
"""

_EXAMPLES = {
    "text": ("'a text' 'another text'", '"a text", "another text"'),
    "image": ("one.png another.jpg", '"one.png", "another.jpg"'),
}
_BESIDE = {
    "text": "",
    "image": "\n- image_reading.py: images as squares of pixels",
    "tabular": "\n- table_reading.py: cells as features",
}
_INTERFACE = {
    "text": "`input_ids` and `attention_mask`, (batch, length) int64 of what tokenizer.json makes, padded at the end",
    "image": "`pixels`, (batch, height, width, 3) bytes of the squares that image_reading.py makes",
    "tabular": "`features`, (batch, width) floats as table_reading.py makes them",
}
_OUTPUTS = {
    "classification": "`probabilities` (batch, classes in the order of model.json) and `prediction_set`",
    "regression": "`value` and `interval`",
}


def archive(model: Model, version: ModelVersion, artifact: bytes, files: Iterable[tuple[str, bytes]]) -> IO[bytes]:
    """The zip, as a file without a name: what describes the version, the artifact, and `files`.

    On disk, because it holds an encoder: answering slow clients from memory would take as much for each.
    """
    header = _header(model, version, artifact)
    described = {
        "README.md": _readme(model, version, header["artifact"].get("metagraft", {}).get("columns", {})),
        "header.json": json.dumps(header, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    own = [*((name, text.encode()) for name, text in described.items()), ("graft.safetensors", artifact)]
    with ExitStack() as unless_done:
        file = unless_done.enter_context(tempfile.TemporaryFile())
        with zipfile.ZipFile(file, "w") as opened:
            for name, data in chain(own, files):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr = 0o644 << 16
                opened.writestr(entry, data)
        unless_done.pop_all()
    return file


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The file from its beginning; closed, and so gone, at its end."""
    with file:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield chunk


def _header(model: Model, version: ModelVersion, artifact: bytes) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": version.number,
        "modality": model.modality,
        "task": model.task,
        "strategy": version.strategy,
        "encoder": version.encoder,
        "dataset": version.dataset,
        "lineage": version.lineage,
        "report": version.report,
        "sha256": version.artifact,
        "created_at": version.created_at.isoformat(),
        "artifact": _safetensors_metadata(artifact),
    }


def _safetensors_metadata(artifact: bytes) -> dict[str, Any]:
    """The metadata that a safetensors file opens with: eight bytes of length, then JSON."""
    size = min(int.from_bytes(artifact[:8], "little"), _MAX_HEADER)
    try:
        metadata: dict[str, str] = json.loads(artifact[8 : 8 + size]).get("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        raise ArtifactCorrupted("The stored model is damaged; restore it from a backup, or adapt it again.") from None
    return {key: _parsed(value) for key, value in metadata.items()}


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _readme(model: Model, version: ModelVersion, columns: Mapping[str, str]) -> str:
    modality = model.modality
    command, value = _EXAMPLES.get(modality) or _example_row(columns)
    encoded = "the encoder under the model's graft, and the model" if modality != "tabular" else "the model"
    return _README.format(
        name=model.name,
        number=version.number,
        modality=modality,
        task=model.task,
        strategy=version.strategy,
        encoder=version.encoder,
        example=command,
        value=value,
        beside=_BESIDE[modality],
        graph=encoded,
        tokenizer="\n- tokenizer.json: text as tokens" if modality == "text" else "",
        interface=f"{_INTERFACE[modality]}, to {_OUTPUTS[model.task]}, `ood_score` and `abstain`",
    )


def _example_row(columns: Mapping[str, str]) -> tuple[str, str]:
    """As an argument of the command line, and in Python."""
    few = list(columns.items())[:5]
    row = json.dumps({name: 1.0 if kind == "numeric" else "a text" for name, kind in few}, ensure_ascii=False)
    return shlex.quote(row), row
