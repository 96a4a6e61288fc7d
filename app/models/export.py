"""A version as one zip that runs where the learning core is installed. The same version gives the same bytes."""

import io
import json
import zipfile
from typing import Any

from app.errors import ArtifactCorrupted
from app.tables import Model, ModelVersion

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_HEADER = 100 * 2**20

_README = """\
# {name}, version {number}

{modality} {task}, strategy {strategy}, encoder {encoder}.

- graft.safetensors: the adapted model, to be used on top of the encoder
- header.json: what it is and where it comes from

With the package `metagraft` installed, this answers queries:

```python
from pathlib import Path

from learning.artifact import load_learner
{imports}

learner = load_learner(Path("graft.safetensors").read_bytes())
{inputs}
answers = learner.predict(inputs)
{show}
```
"""

_ENCODED = """\
encoder, graft = load_encoder(learner.encoder), learner.graft
encoder = encoder.grafted(graft) if graft else encoder
inputs = Features.only(encoder.encode([{example}]), graft.digest if graft else "")"""

_TABLE = """\
rows = {"column": [1.0]}  # the values of each column of learner.columns
rows = {name: rows.get(name, [None]) for name in learner.columns}
inputs = table_from_columns(rows, learner.columns)"""


def archive(model: Model, version: ModelVersion, artifact: bytes) -> bytes:
    """The zip's bytes: graft.safetensors, header.json and README.md."""
    header = json.dumps(_header(model, version, artifact), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    files = {
        "graft.safetensors": artifact,
        "header.json": header.encode(),
        "README.md": _readme(model, version).encode(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            file.writestr(entry, data)
    return buffer.getvalue()


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


def _readme(model: Model, version: ModelVersion) -> str:
    if model.modality == "tabular":
        imports, inputs = "from learning.encoders.columns import table_from_columns", _TABLE
    else:
        imports = "from learning.encoders.registry import load_encoder\nfrom learning.types import Features"
        example = '"a text"' if model.modality == "text" else 'Path("image.png").read_bytes()'
        inputs = _ENCODED.format(example=example)
    if model.task == "classification":
        show = "print(answers.classes, answers.probs_QC.tolist())"
    else:
        show = "print(answers.values_Q.tolist(), answers.intervals_Q2.tolist())"
    return _README.format(
        name=model.name,
        number=version.number,
        modality=model.modality,
        task=model.task,
        strategy=version.strategy,
        encoder=version.encoder,
        imports=imports,
        inputs=inputs,
        show=show,
    )
