"""What adaptation and meta-training share before they learn: options, encoders, encoded domains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError

from app.datasets.examples import Examples
from app.inference.engine import InferenceEngine
from learning.class_names import ClassNames, spoken
from learning.encoders.registry import default_encoder
from learning.errors import IncompatibleDomain, InvalidOptions
from learning.grafts import Graft
from learning.meta import MetaLearner
from learning.types import Domain, Modality, Progress, Task, labelled_set

#: Share of the progress bar that encoding takes where there is an encoder to run.
ENCODING_SHARE = 0.6
#: What a table "encodes" with has no weights: its featuriser is part of every artifact.
NO_REVISION = ""

NamedExamples = tuple[str, Examples]


@contextmanager
def one_thread() -> Iterator[None]:
    """Heads are small: on a busy machine threads wait for each other up to forty times longer than they compute.

    It also keeps an artifact's bytes from depending on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def validated(kind: type[Any], options: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "options"
        raise InvalidOptions(f"{where}: {first['msg']}", hint="GET /v1/strategies shows the options") from None


def encoder_name(asked: str | None, meta: MetaLearner | None, modality: Modality) -> str:
    if asked is not None:
        return asked
    return meta.encoder if meta is not None else default_encoder(modality)


def revision_of(engine: InferenceEngine, encoder: str, examples: Examples) -> str:
    engine.encoders.check(encoder, examples.modality)
    return NO_REVISION if examples.modality == "tabular" else engine.encoders.get(encoder).revision


def check_meta_learner(meta: MetaLearner | None, encoder: str, revision: str) -> None:
    if meta is None or (meta.encoder, meta.encoder_revision) == (encoder, revision):
        return
    raise IncompatibleDomain(
        f"the meta-learner was trained on {meta.encoder} {meta.encoder_revision}, this job uses {encoder} {revision}",
        hint="meta-train again with this encoder, or leave the encoder out of the options",
    )


def encoding_share(examples: Examples) -> float:
    """Share of the progress that encoding takes."""
    return 0.02 if examples.modality == "tabular" else ENCODING_SHARE


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """A progress that fills [start, stop] of the whole."""
    return lambda fraction, phase: progress(start + (stop - start) * min(max(fraction, 0.0), 1.0), phase)


def to_domains(
    engine: InferenceEngine,
    datasets: Sequence[NamedExamples],
    encoder: str,
    progress: Progress,
    *,
    grafts: Sequence[Graft | None] = (None,),
) -> list[Domain]:
    """Every dataset encoded under each of `grafts` (None: the rootstock), as domains named by their dataset ids."""
    total = sum(len(examples) for _, examples in datasets)
    domains: list[Domain] = []
    before = 0
    for name, examples in datasets:
        progress(before / total, "encoding")
        report = _rows_report(progress, before, len(examples), total)
        inputs = engine.to_inputs(examples, encoder, report, grafts=grafts)
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


def all_columns(datasets: Sequence[NamedExamples]) -> dict[str, str]:
    """Every column of any table, with its kind in the first table that has it."""
    columns: dict[str, str] = {}
    for _, examples in datasets:
        columns = examples.column_kinds | columns
    return columns


def encoded_names(
    engine: InferenceEngine, encoder: str, target: Domain, graft: Graft | None, modality: Modality
) -> ClassNames | None:
    """The target's class names as texts under the views that its rows have; None where names are no texts to it."""
    classes = target.data.classes
    if modality != "text" or not classes:
        return None
    texts = [spoken(name) for name in classes]
    grafts = [None] if graft is None else [None, graft]
    return ClassNames(
        row_of={name: row for row, name in enumerate(classes)}, inputs=engine.encoded(encoder, texts, grafts=grafts)
    )


def check_alike(datasets: Sequence[NamedExamples]) -> None:
    """Raises `IncompatibleDomain` where modality or task differ."""
    first_name, first = datasets[0]
    for name, examples in datasets[1:]:
        if (examples.modality, examples.task) != (first.modality, first.task):
            raise IncompatibleDomain(
                f"{name} is {examples.modality} {examples.task}, {first_name} is {first.modality} {first.task}",
                hint="use datasets of one modality and one task",
            )
