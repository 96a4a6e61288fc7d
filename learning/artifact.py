"""Artifacts: safetensors whose metadata is a JSON header with a format version. Never pickle.

Loading reads numbers and JSON only, so an artifact from an untrusted place can be wrong but cannot run anything.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from learning.base_learner import BaseLearner, Pipeline
from learning.calibration import Familiarity
from learning.errors import InvalidArtifact
from learning.featurisers import dump_featuriser, load_featuriser
from learning.grafts import Graft
from learning.heads import LinearHead
from learning.intervals import HeldOutHeads
from learning.meta import MetaLearner
from learning.parameters import TransferParameters
from learning.statistics import RidgeStatistics
from learning.types import FittedFeaturiser

FORMAT_VERSION = 2
_HEADER = "metagraft"


def _join(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{group}.{name}": t.contiguous() for group, tensors in groups.items() for name, t in tensors.items()}


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _dump(kind: str, groups: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, Any]) -> bytes:
    text = json.dumps({"format_version": FORMAT_VERSION, "kind": kind} | dict(header), sort_keys=True, allow_nan=False)
    return save(_join(groups), metadata={_HEADER: text})


def read_header(data: bytes) -> dict[str, Any]:
    """The JSON header of an artifact, without its tensors. Raises `InvalidArtifact`."""
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        header: dict[str, Any] = json.loads(metadata[_HEADER])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidArtifact("these bytes are not a Metagraft artifact") from error
    if header.get("format_version") != FORMAT_VERSION:
        raise InvalidArtifact(f"artifact format {header.get('format_version')!r} is not known to this version")
    return header


def _read(data: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = read_header(data)
    if header.get("kind") != kind:
        raise InvalidArtifact(f"this artifact is a {header.get('kind')!r}, not a {kind}")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InvalidArtifact("the artifact's tensors cannot be read") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise InvalidArtifact("the artifact holds non-finite numbers")
    return tensors, header


def _graft_tensors(graft: Graft | None) -> dict[str, Tensor]:
    return {} if graft is None else {name: offset.half() for name, offset in graft.offsets.items()}


def _graft(tensors: Mapping[str, Tensor], group: str = "graft") -> Graft | None:
    offsets = {name: offset.float() for name, offset in _group(tensors, group).items()}
    return Graft(offsets=offsets) if offsets else None


def _source_grafts(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Graft]:
    found = {name: _graft(tensors, f"source_graft_{i}") for i, name in enumerate(names)}
    return {name: graft for name, graft in found.items() if graft is not None}


def dump_learner(learner: BaseLearner) -> bytes:
    """The base learner as bytes; equal learners give equal bytes."""
    pipeline, featuriser = learner.pipeline, dump_featuriser(learner.pipeline.featuriser)
    embedding = {} if pipeline.parameters is None else pipeline.parameters.to(torch.float32).tensors()
    head = {"weight_TF": pipeline.head.weight_TF.float(), "bias_T": pipeline.head.bias_T.float()}
    reference = {"reference_NF": learner.familiarity.reference_NF.half()}
    held_out = {} if learner.held_out_heads is None else learner.held_out_heads.tensors()
    statistics = {} if learner.statistics is None else learner.statistics.tensors()
    header = {
        "modality": learner.modality,
        "task": learner.task,
        "strategy": learner.strategy,
        "encoder": learner.encoder,
        "encoder_revision": learner.encoder_revision,
        "columns": learner.columns,
        "classes": learner.classes,
        "featuriser": featuriser[1],
        "similarity": pipeline.similarity,
        "temperature": learner.temperature,
        "set_threshold": learner.set_threshold,
        "interval_half_width": learner.interval_half_width if math.isfinite(learner.interval_half_width) else None,
        "coverage": learner.coverage,
        "familiarity": {"typical": learner.familiarity.typical, "spread": learner.familiarity.spread},
        "support_rows": learner.support_rows,
        "support_labels": learner.support_labels,
    }
    groups = {
        "head": head,
        "embedding": embedding,
        "featuriser": featuriser[0],
        "support": reference,
        "held_out": held_out,
        "statistics": statistics,
        "graft": _graft_tensors(learner.graft),
    }
    return _dump("base_learner", groups, header)


def load_learner(data: bytes) -> BaseLearner:
    """Raises `InvalidArtifact` for anything that is not a whole base learner of a known format."""
    tensors, header = _read(data, "base_learner")
    try:
        learner = _learner(tensors, header)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidArtifact("the artifact lacks a part of a base learner") from error
    _check_graft(learner.pipeline.featuriser, learner.graft)
    return learner


def _check_graft(featuriser: FittedFeaturiser, graft: Graft | None) -> None:
    if featuriser.graft != ("" if graft is None else graft.digest):
        raise InvalidArtifact("the artifact's graft is not the one that its features were made under")


def _learner(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> BaseLearner:
    embedding, head = _group(tensors, "embedding"), _group(tensors, "head")
    half_width, held_out = header["interval_half_width"], _group(tensors, "held_out")
    statistics = _group(tensors, "statistics")
    return BaseLearner(
        modality=header["modality"],
        task=header["task"],
        strategy=header["strategy"],
        encoder=header["encoder"],
        encoder_revision=header["encoder_revision"],
        columns=dict(header["columns"]),
        classes=tuple(header["classes"]),
        pipeline=Pipeline(
            featuriser=load_featuriser(_group(tensors, "featuriser"), header["featuriser"]),
            parameters=TransferParameters.from_tensors(embedding).to(torch.float64) if embedding else None,
            similarity=header["similarity"],
            head=LinearHead(weight_TF=head["weight_TF"].double(), bias_T=head["bias_T"].double()),
        ),
        temperature=float(header["temperature"]),
        set_threshold=float(header["set_threshold"]),
        coverage=float(header["coverage"]),
        held_out_heads=HeldOutHeads.from_tensors(held_out) if held_out else None,
        interval_half_width=math.inf if half_width is None else float(half_width),
        familiarity=Familiarity(
            reference_NF=_group(tensors, "support")["reference_NF"].float(),
            typical=float(header["familiarity"]["typical"]),
            spread=float(header["familiarity"]["spread"]),
        ),
        support_rows=tuple(header["support_rows"]),
        support_labels=tuple(header["support_labels"]),
        statistics=RidgeStatistics.from_tensors(statistics) if statistics else None,
        graft=_graft(tensors),
    )


def dump_meta_learner(meta_learner: MetaLearner) -> bytes:
    """The meta-learner as bytes; equal ones give equal bytes."""
    featuriser = dump_featuriser(meta_learner.featuriser)
    header = {
        "modality": meta_learner.modality,
        "task": meta_learner.task,
        "encoder": meta_learner.encoder,
        "encoder_revision": meta_learner.encoder_revision,
        "columns": meta_learner.columns,
        "similarity": meta_learner.similarity,
        "featuriser": featuriser[1],
        "card": meta_learner.card,
        "source_grafts": list(meta_learner.source_grafts),
    }
    parameters = meta_learner.parameters.to(torch.float32).tensors()
    groups = {"parameters": parameters, "featuriser": featuriser[0], "graft": _graft_tensors(meta_learner.graft)}
    own = enumerate(meta_learner.source_grafts.values())
    return _dump("meta_learner", groups | {f"source_graft_{i}": _graft_tensors(graft) for i, graft in own}, header)


def load_meta_learner(data: bytes) -> MetaLearner:
    """Raises `InvalidArtifact` for anything that is not a whole meta-learner of a known format."""
    tensors, header = _read(data, "meta_learner")
    try:
        learner = MetaLearner(
            modality=header["modality"],
            task=header["task"],
            encoder=header["encoder"],
            encoder_revision=header["encoder_revision"],
            columns=dict(header["columns"]),
            similarity=header["similarity"],
            featuriser=load_featuriser(_group(tensors, "featuriser"), header["featuriser"]),
            parameters=TransferParameters.from_tensors(_group(tensors, "parameters")),
            card=header["card"],
            graft=_graft(tensors),
            source_grafts=_source_grafts(tensors, header["source_grafts"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidArtifact("the artifact lacks a part of a meta-learner") from error
    _check_graft(learner.featuriser, learner.graft)
    return learner
