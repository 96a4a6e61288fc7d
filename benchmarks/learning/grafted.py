"""Meta-training from raw sources as the service does it: a graft, the sources encoded under it, a meta-learner.

Trained grafts are kept between runs, by everything that made them: options, seed, rows and the code of stage A.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.data import Examples, drawn
from benchmarks.learning.features import encode
from benchmarks.learning.results import Bench
from learning import grafts
from learning.class_names import ClassNames, spoken
from learning.config import MetaTrainOptions
from learning.encoders.registry import Encoder
from learning.featurisers import Centring
from learning.graft_batches import RawDomain
from learning.grafting import Grafting, train_graft
from learning.grafts import Graft, Graftable
from learning.meta import HonestSources, MetaLearner, meta_train
from learning.splits import HeldOutPart
from learning.types import Domain, Features, LabelledSet, labelled_set

_LEARNING = Path(grafts.__file__).parent
_STAGE_A = ("graft_batches", "graft_training", "grafting", "grafts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A meta-learner and its sources, encoded under its graft."""

    learner: MetaLearner
    sources: list[Domain]


def meta_learned(
    bench: Bench,
    encoder: Graftable,
    sources: Mapping[str, Examples[Any]],
    options: MetaTrainOptions,
    *,
    rows: int,
    seed: int = 0,
) -> Family:
    """Stage A on all rows of the sources, stage B on `rows` of each, drawn at random."""
    grafting = _graft(bench, encoder, sources, options, seed)
    few = {name: drawn(examples, rows) for name, examples in sources.items()}
    domains = [Domain(name=name, data=under(bench, encoder, grafting.graft, part)) for name, part in few.items()]
    honest = None
    if grafting.honest is not None and grafting.held_out is not None:
        held = grafting.held_out.domain
        seen = [
            Domain(
                name=name,
                data=(both if held in {None, name} else under)(bench, encoder, grafting.honest, part),
            )
            for name, part in few.items()
        ]
        honest = HonestSources(
            domains=seen,
            featuriser=Centring(graft=grafting.honest.digest),
            held_out=grafting.held_out,
            alone=Centring(),
        )
    learner = meta_train(
        sources=domains,
        featuriser=Centring(graft=grafting.graft.digest if grafting.graft else ""),
        modality=encoder.modality,
        encoder=encoder.name,
        encoder_revision=encoder.revision,
        columns={},
        options=options,
        seed=seed,
        progress=lambda _fraction, _phase: None,
        graft=grafting.graft,
        honest=honest,
    )
    return Family(learner=learner, sources=domains)


def under(bench: Bench, encoder: Graftable, graft: Graft | None, examples: Examples[Any]) -> LabelledSet:
    """The examples encoded under one graft."""
    worn: Encoder = encoder if graft is None else encoder.grafted(graft)
    features = Features.only(encode(bench, worn, examples.inputs), "" if graft is None else graft.digest)
    return labelled_set(features, list(examples.labels), "classification")


def both(bench: Bench, encoder: Graftable, graft: Graft | None, examples: Examples[Any]) -> LabelledSet:
    """The examples as a target needs them: by the rootstock, and under the graft where there is one."""
    grafted = {} if graft is None else {graft.digest: encode(bench, encoder.grafted(graft), examples.inputs)}
    features = Features(matrix_NF=encode(bench, encoder, examples.inputs), grafted=grafted)
    return labelled_set(features, list(examples.labels), "classification")


def encoded_names(bench: Bench, encoder: Graftable, graft: Graft | None, classes: Sequence[str]) -> ClassNames:
    """Class names as the service gives them to the library."""
    texts = [spoken(name) for name in classes]
    inputs = both(bench, encoder, graft, Examples(inputs=texts, labels=list(classes))).inputs
    assert isinstance(inputs, Features)  # noqa: S101 - they were encoded
    return ClassNames(row_of={name: row for row, name in enumerate(classes)}, inputs=inputs)


def _graft(
    bench: Bench, encoder: Graftable, sources: Mapping[str, Examples[Any]], options: MetaTrainOptions, seed: int
) -> Grafting:
    raw = []
    for name, examples in sources.items():
        data = labelled_set(Features(matrix_NF=torch.zeros(len(examples), 0)), list(examples.labels), "classification")
        raw.append(RawDomain(name=name, inputs=examples.inputs, labels_N=data.labels_N, classes=data.classes))
    path = bench.cache / "grafts" / f"{_key(encoder, sources, options, seed)}.pt"
    if not path.exists():
        before = torch.get_num_threads()
        torch.set_num_threads(bench.threads)
        generator = torch.Generator().manual_seed(seed)
        grafting = train_graft(encoder, raw, options.graft, generator, lambda _done: None)
        torch.set_num_threads(before)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_to_plain(grafting), path)
    return _from_plain(torch.load(path, weights_only=True))


def _key(encoder: Encoder, sources: Mapping[str, Examples[Any]], options: MetaTrainOptions, seed: int) -> str:
    digest = hashlib.sha256(json.dumps([encoder.revision, asdict(options.graft), seed]).encode())
    for module in _STAGE_A:
        digest.update((_LEARNING / f"{module}.py").read_bytes())
    for name, examples in sources.items():
        digest.update(name.encode())
        for x, label in zip(examples.inputs, examples.labels, strict=True):
            digest.update((x if isinstance(x, bytes) else x.encode()) + label.encode())
    return digest.hexdigest()[:16]


def _to_plain(grafting: Grafting) -> dict[str, Any]:
    return {
        "graft": dict(grafting.graft.offsets) if grafting.graft else None,
        "honest": dict(grafting.honest.offsets) if grafting.honest else None,
        "held_out": asdict(grafting.held_out) if grafting.held_out else None,
        "report": grafting.report,
    }


def _from_plain(plain: dict[str, Any]) -> Grafting:
    return Grafting(
        graft=Graft(offsets=plain["graft"]) if plain["graft"] else None,
        honest=Graft(offsets=plain["honest"]) if plain["honest"] else None,
        held_out=HeldOutPart(**plain["held_out"]) if plain["held_out"] else None,
        report=plain["report"],
    )
