"""Base learners and meta-learners as artifacts, and back. How bytes are written and read: `learning.envelope`.

What was read is checked before it is used: it has to be, tensor for tensor and word for word, what would be written for
the learner that came of it, and that learner has to hold together (`learning.soundness`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learning.base_learner import BaseLearner, Pipeline
from learning.calibration import Familiarity
from learning.envelope import is_sealed, read_header, readable, seal, unseal
from learning.errors import InvalidArtifact
from learning.featurisers import dump_featuriser, load_featuriser
from learning.grafts import Graft
from learning.heads import LinearHead
from learning.intervals import HeldOutHeads
from learning.meta import MetaLearner
from learning.parameters import TransferParameters
from learning.soundness import check_learner, check_meta_learner, check_tensors
from learning.statistics import RidgeStatistics
from learning.types import FittedFeaturiser

__all__ = ["dump_learner", "dump_meta_learner", "load_learner", "load_meta_learner", "read_header"]

_LEARNER, _META_LEARNER = "base_learner", "meta_learner"
#: The tensors and the header of an artifact.
_Parts = tuple[dict[str, Tensor], dict[str, Any]]


def dump_learner(learner: BaseLearner) -> bytes:
    """The base learner as bytes; equal learners give equal bytes. Raises `NonFiniteModel`."""
    return seal(_LEARNER, *_learner_parts(learner))


def load_learner(data: bytes) -> BaseLearner:
    """Raises `InvalidArtifact` for anything that is not a whole base learner of a known format."""
    tensors, header = unseal(data, _LEARNER)
    with readable("base learner"):
        learner = _learner(tensors, header)
        _check_same((tensors, header), _learner_parts(learner), strictly=is_sealed(data))
        _check_graft(learner.pipeline.featuriser, learner.graft)
        check_learner(learner)
    return learner


def dump_meta_learner(meta_learner: MetaLearner) -> bytes:
    """The meta-learner as bytes; equal ones give equal bytes. Raises `NonFiniteModel`."""
    return seal(_META_LEARNER, *_meta_learner_parts(meta_learner))


def load_meta_learner(data: bytes) -> MetaLearner:
    """Raises `InvalidArtifact` for anything that is not a whole meta-learner of a known format."""
    tensors, header = unseal(data, _META_LEARNER)
    with readable("meta-learner"):
        learner = _meta_learner(tensors, header)
        _check_same((tensors, header), _meta_learner_parts(learner), strictly=is_sealed(data))
        _check_graft(learner.featuriser, learner.graft)
        check_meta_learner(learner)
    return learner


def _check_same(found: _Parts, written: _Parts, *, strictly: bool) -> None:
    """Nothing is missing, surplus or of another shape: `written` is what would be stored for the learner that was read.

    Not `strictly`: the header, too old for a seal, may lack what was added since.
    """
    check_tensors(found[0])
    shapes, expected = ({name: tensor.shape for name, tensor in tensors.items()} for tensors, _ in (found, written))
    if shapes != expected:
        raise InvalidArtifact("the artifact's tensors are not those of its kind")
    texts = [json.dumps(header, sort_keys=True, allow_nan=False) for _, header in (found, written)]
    if (strictly and texts[0] != texts[1]) or found[1].keys() - written[1].keys():
        raise InvalidArtifact("the artifact's header is not that of its kind")


def _join(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{group}.{name}": t for group, tensors in groups.items() for name, t in tensors.items()}


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _graft_tensors(graft: Graft | None) -> dict[str, Tensor]:
    return {} if graft is None else {name: offset.half() for name, offset in graft.offsets.items()}


def _graft(tensors: Mapping[str, Tensor], group: str = "graft") -> Graft | None:
    offsets = {name: offset.float() for name, offset in _group(tensors, group).items()}
    return Graft(offsets=offsets) if offsets else None


def _source_grafts(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Graft]:
    found = {name: _graft(tensors, f"source_graft_{i}") for i, name in enumerate(names)}
    return {name: graft for name, graft in found.items() if graft is not None}


def _learner_parts(learner: BaseLearner) -> _Parts:
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
    return _join(groups), header


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


def _meta_learner_parts(meta_learner: MetaLearner) -> _Parts:
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
    grafts = {f"source_graft_{i}": _graft_tensors(graft) for i, graft in own}
    return _join(groups | grafts), header


def _meta_learner(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> MetaLearner:
    return MetaLearner(
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
