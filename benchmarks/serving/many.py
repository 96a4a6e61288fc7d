"""A thousand adapted models in one process: what they take in memory, and what mixing them costs."""

import random
from collections.abc import Sequence

from benchmarks.serving import trees
from benchmarks.serving.bench import Bench, Sample, Samples, complaints_in, fresh, measure, peers, wrong_in
from benchmarks.serving.exporting import export
from benchmarks.serving.intervals import ratios
from benchmarks.serving.metagraft import copied, learner_of, multiply, serving, varied
from benchmarks.serving.results import LOAD_HEAD, Section, Table, figure, goal, load_cells
from benchmarks.serving.systems import System

CONCURRENCY = 16
MODELS, QUICK_MODELS = 1000, 100
PEER_MODELS = 4
BUDGET_MIB = 8 * 1024
SINGLE, MIXED = "one model", "all models, at random"
#: More than are answered in one load.
PER_SECOND = 1500


def run(bench: Bench) -> Section:
    count = QUICK_MODELS if bench.quick else MODELS
    parts = [_own(bench, count, grafted=grafted) for grafted in (False, True)]
    notes: list[str] = [note for part in parts for note in part.notes]
    return Section(
        name="many-models",
        protocol=(
            f"{count} text models with weights of their own over one encoder, once heads alone, once with offsets of "
            f"the encoder's normalisation layers too. Concurrency {CONCURRENCY}, mixed and single-model traffic in "
            "turn on one process. Peers load an encoder with each model, as their design has it."
        ),
        tables=[*(table for part in parts for table in part.tables), _peers(bench, notes)],
        goals=[found for part in parts for found in part.goals],
        notes=notes,
    )


def _own(bench: Bench, count: int, *, grafted: bool) -> Section:
    kind = "head and offsets" if grafted else "heads alone"
    home = copied(bench.home, bench.folder / f"many-{grafted}")
    names = multiply(home, "text", count, grafted=grafted)
    with serving(home, bench.folder / f"many-log-{grafted}") as system:
        for repeat in (-4, -3, -2):  # what a process grows to under load is not the models'
            _load(bench, system, names[:1], repeat)
        before = trees.memory(system.pid)
        samples = in_turn(bench, system, names)
        _each_once(bench, system, names, seed=2)
        after = trees.memory(system.pid)
    rates = {name: [sample.load.per_second for sample in several] for name, several in samples.items()}
    lines = [[name, *load_cells(several)] for name, several in samples.items()]
    held = [["1", figure(before.rss), figure(before.pss)], [str(count), figure(after.rss), figure(after.pss)]]
    limit = max(30.0, 200.0 * count / MODELS)
    return Section(
        name=kind,
        protocol="",
        tables=[
            Table(title=f"{count} models, {kind}:", head=("traffic", *LOAD_HEAD), lines=lines),
            Table(title=f"Memory, {kind}:", head=("models loaded", "RSS MiB", "PSS MiB"), lines=held),
        ],
        goals=[
            goal(f"{count} text models, {kind}: PSS above one", [after.pss - before.pss], limit, "MiB", at_most=True),
            goal(f"{count} text models, {kind}: requests/s over one model's", ratios(rates[MIXED], rates[SINGLE]),
                 0.92, "times", at_most=False),
            goal(f"many models, {kind}: wrong answers", [float(wrong_in(samples))], 0, "", at_most=True),
        ],
        notes=complaints_in(samples),
    )  # fmt: skip


def _each_once(bench: Bench, system: System, names: Sequence[str], seed: int) -> Sample:
    values = fresh(bench, "text", seed, len(names))
    requests = [system.ask(name, value, bench.labels["text"]) for name, value in zip(names, values, strict=True)]
    return measure(bench.generator, system, requests, CONCURRENCY, 600.0)


def in_turn(bench: Bench, system: System, names: Sequence[str]) -> Samples:
    """Loads on the first model and on all of them, over and over. One round goes before, in which all are loaded."""
    found: Samples = {SINGLE: [], MIXED: []}
    _each_once(bench, system, names, seed=3)
    for repeat in range(-1, bench.repeats):
        for kind in sorted(found, reverse=bool(repeat % 2)):
            sample = _load(bench, system, names if kind == MIXED else names[:1], repeat)
            if repeat >= 0:
                found[kind].append(sample)
    return found


def _load(bench: Bench, system: System, names: Sequence[str], repeat: int) -> Sample:
    draw = random.Random(repeat)  # noqa: S311 - a benchmark
    values = fresh(bench, "text", 10_000 + 2 * repeat + (len(names) > 1), int(PER_SECOND * bench.seconds))
    requests = [system.ask(draw.choice(names), value, bench.labels["text"]) for value in values]
    return measure(bench.generator, system, requests, CONCURRENCY, bench.seconds)


def _peers(bench: Bench, notes: list[str]) -> Table:
    memory = {count: _peer_memory(bench, count, notes) for count in (1, PEER_MODELS)}
    lines = []
    for name, (first, _) in memory[1].items():
        further, rate = memory[PEER_MODELS].get(name, (2 * first, ""))
        each = (further - first) / (PEER_MODELS - 1) if name in memory[PEER_MODELS] else first
        fitting = int(1 + (BUDGET_MIB - first) // each) if each > 0 else 0
        lines.append([name, figure(first), figure(each), str(fitting), rate])
    head = ("peer", "1 model, PSS MiB", "each further one", "fit in 8 GiB", f"requests/s, one of {PEER_MODELS} / all")
    return Table(
        title="Peers; one that serves a single model a server counts a server for each:", head=head, lines=lines
    )


def _peer_memory(bench: Bench, count: int, notes: list[str]) -> dict[str, tuple[float, str]]:
    models = bench.folder / f"many-exported-{count}"
    learner, names = learner_of(bench.home, "text"), [f"text.{number}" for number in range(count)]
    for number, name in enumerate(names):
        export(varied(learner, number), models / name)
    found: dict[str, tuple[float, str]] = {}
    with peers(bench, models, notes, many=count > 1) as systems:
        for system in systems:
            _each_once(bench, system, names * CONCURRENCY, seed=4)
            rate = _rates(bench, system, names) if count > 1 else ""
            found[system.name] = (trees.memory(system.pid).pss, rate)
    return found


def _rates(bench: Bench, system: System, names: Sequence[str]) -> str:
    single, mixed = (_load(bench, system, some, 0).load.per_second for some in (names[:1], names))
    return f"{figure(single)} / {figure(mixed)}"
