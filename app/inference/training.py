"""What a worker runs: encode the datasets, adapt or meta-train, return the artifact and its report."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError

from app.datasets.examples import Examples
from app.errors import finite
from app.inference.engine import InferenceEngine
from learning.adaptation import adapt
from learning.artifact import dump_learner, dump_meta_learner, load_meta_learner
from learning.config import STRATEGIES, MetaTrainOptions
from learning.encoders.registry import default_encoder
from learning.errors import IncompatibleDomain, InvalidData, InvalidOptions
from learning.featurisers import featuriser_for
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, Modality, Progress, Task, labelled_set

#: Share of the progress bar that encoding takes where there is an encoder to run.
ENCODING_SHARE = 0.6
#: What a table "encodes" with has no weights: its featuriser is part of every artifact.
NO_REVISION = ""

NamedExamples = tuple[str, Examples]


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
    """
    began = time.perf_counter()
    chosen = _options(STRATEGIES[strategy], options)
    meta = load_meta_learner(meta_learner) if meta_learner is not None else None
    examples = target[1]
    modality = cast("Modality", examples.modality)
    encoder = _encoder_name(chosen.encoder, meta, modality)
    revision = _revision(engine, encoder, examples)
    _check_meta_learner(meta, encoder, revision)
    domains = _domains(engine, [target, *sources], encoder, _part(progress, 0.0, _encoding_share(examples)))
    encoded = time.perf_counter()
    with _one_thread():
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
            progress=_part(progress, _encoding_share(examples), 1.0),
        )
    artifact = dump_learner(adaptation.learner)
    ended = time.perf_counter()
    report = finite(adaptation.report)
    timing = {"encode_s": encoded - began, "fit_s": ended - encoded, "total_s": ended - began}
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
    chosen = _options(MetaTrainOptions, options)
    examples = sources[0][1]
    modality = cast("Modality", examples.modality)
    encoder = _encoder_name(chosen.encoder, None, modality)
    revision = _revision(engine, encoder, examples)
    domains = _domains(engine, sources, encoder, _part(progress, 0.0, _encoding_share(examples)))
    encoded = time.perf_counter()
    with _one_thread():
        learner = meta_train(
            sources=domains,
            featuriser=featuriser_for(modality),
            modality=modality,
            encoder=encoder,
            encoder_revision=revision,
            columns=_all_columns(sources),
            options=chosen,
            seed=seed,
            progress=_part(progress, _encoding_share(examples), 1.0),
        )
    ended = time.perf_counter()
    timing = {"encode_s": encoded - began, "fit_s": ended - encoded, "total_s": ended - began}
    card = finite(learner.card) | {"timing": timing}
    return MetaOutcome(artifact=dump_meta_learner(learner), encoder=encoder, card=card)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Heads are small: on a busy machine threads wait for each other up to forty times longer than they compute.

    It also keeps an artifact's bytes from depending on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _options(kind: type[Any], options: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "options"
        raise InvalidOptions(f"{where}: {first['msg']}", hint="GET /v1/strategies shows the options") from None


def _encoder_name(asked: str | None, meta: MetaLearner | None, modality: Modality) -> str:
    if asked is not None:
        return asked
    return meta.encoder if meta is not None else default_encoder(modality)


def _revision(engine: InferenceEngine, encoder: str, examples: Examples) -> str:
    engine.encoders.check(encoder, examples.modality)
    return NO_REVISION if examples.modality == "tabular" else engine.encoders.get(encoder).revision


def _check_meta_learner(meta: MetaLearner | None, encoder: str, revision: str) -> None:
    if meta is None or (meta.encoder, meta.encoder_revision) == (encoder, revision):
        return
    raise IncompatibleDomain(
        f"the meta-learner was trained on {meta.encoder} {meta.encoder_revision}, this job uses {encoder} {revision}",
        hint="meta-train again with this encoder, or leave the encoder out of the options",
    )


def _encoding_share(examples: Examples) -> float:
    return 0.02 if examples.modality == "tabular" else ENCODING_SHARE


def _part(progress: Progress, start: float, stop: float) -> Progress:
    """A progress that fills [start, stop] of the whole."""
    return lambda fraction, phase: progress(start + (stop - start) * min(max(fraction, 0.0), 1.0), phase)


def _domains(
    engine: InferenceEngine, datasets: Sequence[NamedExamples], encoder: str, progress: Progress
) -> list[Domain]:
    """Every dataset encoded, as domains named by their dataset ids."""
    _check_alike(datasets)
    total = sum(len(examples) for _, examples in datasets)
    domains: list[Domain] = []
    before = 0
    for name, examples in datasets:
        progress(before / total, "encoding")
        inputs = engine.to_inputs(examples, encoder, _rows_report(progress, before, len(examples), total))
        data = labelled_set(inputs, examples.labels, cast("Task", examples.task))
        rows_N = None if examples.positions is None else torch.tensor(examples.positions)
        domains.append(Domain(name=name, data=data, rows_N=rows_N))
        before += len(examples)
    progress(1.0, "encoding")
    return domains


def _rows_report(progress: Progress, before: int, size: int, total: int) -> Callable[[int, int], None]:
    def report(done: int, to_encode: int) -> None:
        # What the cache held counts as done from the start.
        progress((before + size - to_encode + done) / total, "encoding")

    return report


def _all_columns(datasets: Sequence[NamedExamples]) -> dict[str, str]:
    """Every column of any table, with its kind in the first table that has it."""
    columns: dict[str, str] = {}
    for _, examples in datasets:
        columns = examples.column_kinds | columns
    return columns


def _check_alike(datasets: Sequence[NamedExamples]) -> None:
    first_name, first = datasets[0]
    for name, examples in datasets[1:]:
        if (examples.modality, examples.task) != (first.modality, first.task):
            raise IncompatibleDomain(
                f"{name} is {examples.modality} {examples.task}, {first_name} is {first.modality} {first.task}",
                hint="use datasets of one modality and one task",
            )
