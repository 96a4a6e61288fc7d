"""What a worker runs: encode the datasets, adapt or meta-train, return the artifact and its report."""

import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from app.datasets.examples import Examples
from app.errors import finite
from app.inference.engine import InferenceEngine
from app.inference.loading import meta_learner_of
from app.inference.preparation import (
    NamedExamples,
    all_columns,
    check_alike,
    check_meta_learner,
    encoded_names,
    encoder_name,
    encoding_share,
    one_thread,
    part_of,
    revision_of,
    to_domains,
    validated,
)
from learning.adaptation import adapt
from learning.artifact import dump_learner, dump_meta_learner
from learning.config import STRATEGIES, GraftTuningOptions, MetaTrainOptions, StrategyOptions
from learning.errors import InvalidData
from learning.featurisers import featuriser_for
from learning.graft_batches import RawDomain
from learning.graft_tuning import TargetEncoding
from learning.grafting import Grafting, no_grafting, train_graft
from learning.grafts import Graft, Graftable, is_graftable
from learning.meta import HonestSources, MetaLearner, meta_train
from learning.types import Domain, Features, Modality, Progress, labelled_set

#: Share of the progress of meta-training that the graft takes.
GRAFT_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class AdaptOutcome:
    """`artifact` are the bytes of the base learner; `strategy` is the one chosen; `report` is JSON-able."""

    artifact: bytes
    strategy: str
    encoder: str
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MetaOutcome:
    artifact: bytes
    encoder: str
    card: dict[str, Any]


def run_adapt(
    engine: InferenceEngine,
    *,
    target: NamedExamples,
    sources: list[NamedExamples],
    strategy: str,
    options: dict[str, Any],
    meta_learner: bytes | None,
    seed: int,
    progress: Progress,
) -> AdaptOutcome:
    """Adapts to `target`, (dataset id, examples), with whatever the strategy takes from the sources.

    Raises:
        LearningError: the data, the options or the meta-learner do not fit; whatever `progress` raises.
        ArtifactCorrupted: the bytes of the meta-learner are damaged.
    """
    began = time.perf_counter()
    chosen = validated(STRATEGIES[strategy], options)
    meta = meta_learner_of(meta_learner) if meta_learner is not None else None
    examples = target[1]
    modality = cast("Modality", examples.modality)
    encoder = encoder_name(chosen.encoder, meta, modality)
    revision = revision_of(engine, encoder, examples)
    check_meta_learner(meta, encoder, revision)
    domains = _adaptation_domains(
        engine, target, sources, encoder, meta, part_of(progress, 0.0, encoding_share(examples))
    )
    encoded = time.perf_counter()
    encoding = _target_encoding(engine, encoder, examples, chosen)
    class_names = encoded_names(engine, encoder, domains[0], None if meta is None else meta.graft, modality)
    with one_thread():
        adaptation = adapt(
            target=domains[0],
            sources=domains[1:],
            featuriser=featuriser_for(modality),
            modality=modality,
            encoder=encoder,
            encoder_revision=revision,
            columns=examples.column_kinds,
            strategy=strategy,
            options=chosen,
            meta_learner=meta,
            seed=seed,
            progress=part_of(progress, encoding_share(examples), 1.0),
            encoding=encoding,
            class_names=class_names,
        )
    artifact = dump_learner(adaptation.learner)
    report = finite(adaptation.report)
    timing = _seconds(began, encode=encoded, fit=time.perf_counter())
    report["timing"] = timing | {key: value for key, value in report.get("timing", {}).items() if key == "fit_s"}
    return AdaptOutcome(artifact=artifact, strategy=str(report["strategy"]), encoder=encoder, report=report)


def run_meta_train(
    engine: InferenceEngine,
    *,
    sources: list[NamedExamples],
    options: dict[str, Any],
    seed: int,
    progress: Progress,
) -> MetaOutcome:
    """Learns, over the sources, (dataset id, examples) each, how to transfer.

    Raises:
        LearningError: the data or the options do not fit; whatever `progress` raises.
    """
    began = time.perf_counter()
    if not sources:
        raise InvalidData("meta-training needs at least one source", hint="name source datasets")
    chosen = validated(MetaTrainOptions, options)
    examples = sources[0][1]
    modality = cast("Modality", examples.modality)
    encoder = encoder_name(chosen.encoder, None, modality)
    revision = revision_of(engine, encoder, examples)
    check_alike(sources)
    grafting = _graft(engine, sources, encoder, chosen, seed, part_of(progress, 0.0, GRAFT_SHARE))
    grafted = time.perf_counter()
    domains, honest = _meta_training_domains(
        engine, sources, encoder, grafting, part_of(progress, GRAFT_SHARE, encoding_share(examples))
    )
    encoded = time.perf_counter()
    with one_thread():
        learner = meta_train(
            sources=domains,
            featuriser=featuriser_for(modality, _digest(grafting.graft)),
            modality=modality,
            encoder=encoder,
            encoder_revision=revision,
            columns=all_columns(sources),
            options=chosen,
            seed=seed,
            progress=part_of(progress, encoding_share(examples), 1.0),
            graft=grafting.graft,
            source_grafts=grafting.sources,
            honest=honest,
        )
    timing = _seconds(began, graft=grafted, encode=encoded, fit=time.perf_counter())
    card = finite(learner.card) | {"graft": finite(grafting.report), "timing": timing}
    return MetaOutcome(artifact=dump_meta_learner(learner), encoder=encoder, card=card)


def _seconds(began: float, **ends: float) -> dict[str, float]:
    """How long each part took, from the end of the one before it, and all of them together."""
    starts = [began, *ends.values()]
    parts = {f"{name}_s": end - start for (name, end), start in zip(ends.items(), starts, strict=False)}
    return parts | {"total_s": starts[-1] - began}


def _adaptation_domains(
    engine: InferenceEngine, target: NamedExamples, sources: list[NamedExamples], encoder: str,
    meta: MetaLearner | None, progress: Progress,
) -> list[Domain]:  # fmt: skip
    """The target as the rootstock sees it and under the meta-learner's graft, the sources under the graft alone."""
    check_alike([target, *sources])
    graft = None if meta is None else meta.graft
    share = len(target[1]) / (len(target[1]) + sum(len(examples) for _, examples in sources))
    views = [None] if graft is None else [None, graft]
    domains = to_domains(engine, [target], encoder, part_of(progress, 0.0, share), grafts=views)
    if sources:
        domains += to_domains(engine, sources, encoder, part_of(progress, share, 1.0), grafts=[graft])
    return domains


def _target_encoding(
    engine: InferenceEngine, encoder: str, examples: Examples, options: StrategyOptions
) -> TargetEncoding | None:
    """The way back to the raw target, where the options let the graft be tuned on it."""
    if not isinstance(options, GraftTuningOptions) or options.graft_steps == 0 or examples.modality == "tabular":
        return None
    loaded = engine.encoders.get(encoder)
    if not is_graftable(loaded):
        return None
    inputs = cast("list[Any]", examples.inputs)
    # Asked here, where the threads are still those of the process: fits run on one.
    return TargetEncoding(encoder=cast("Graftable", loaded), inputs=inputs, threads=torch.get_num_threads())


def _graft(
    engine: InferenceEngine, sources: list[NamedExamples], encoder: str, options: MetaTrainOptions, seed: int,
    progress: Progress,
) -> Grafting:  # fmt: skip
    """Stage A. Tables and regression have none: there is no encoder to move, or no class to move it by."""
    first = sources[0][1]
    if first.modality == "tabular" or first.task != "classification":
        return no_grafting("grafts are for classification of texts and images")
    raw = []
    for name, examples in sources:
        data = labelled_set(Features(matrix_NF=torch.zeros(len(examples), 0)), examples.labels, "classification")
        inputs = cast("list[Any]", examples.inputs)
        raw.append(RawDomain(name=name, inputs=inputs, labels_N=data.labels_N, classes=data.classes))
    generator = torch.Generator().manual_seed(seed)
    return train_graft(
        engine.encoders.get(encoder), raw, options.graft, generator, lambda done: progress(done, "training the graft")
    )


def _meta_training_domains(
    engine: InferenceEngine, sources: list[NamedExamples], encoder: str, grafting: Grafting, progress: Progress
) -> tuple[list[Domain], HonestSources | None]:
    """The sources under the kept graft, and under the one that never saw the held-out part."""
    if grafting.graft is None or grafting.honest is None or grafting.held_out is None:
        return to_domains(engine, sources, encoder, progress), None
    domains = to_domains(engine, sources, encoder, part_of(progress, 0.0, 0.5), grafts=[grafting.graft])
    seen = []
    for place, (name, examples) in enumerate(sources):
        share = part_of(progress, 0.5 + place / len(sources) / 2, 0.5 + (place + 1) / len(sources) / 2)
        # What transferring is compared with needs the rootstock's features too, of the part that plays the target.
        held = grafting.held_out.domain in {None, name}
        grafts = [None, grafting.honest] if held else [grafting.honest]
        seen += to_domains(engine, [(name, examples)], encoder, share, grafts=grafts)
    modality = cast("Modality", sources[0][1].modality)
    honest = HonestSources(
        domains=seen,
        featuriser=featuriser_for(modality, grafting.honest.digest),
        held_out=grafting.held_out,
        alone=featuriser_for(modality),
    )
    return domains, honest


def _digest(graft: Graft | None) -> str:
    return "" if graft is None else graft.digest
