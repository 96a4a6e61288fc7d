"""How throughput and memory go with the number of models, and throughput with the size of an input."""

import random
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.serving import trees
from benchmarks.serving.bench import Bench, Sample, fresh, measure
from benchmarks.serving.inputs import Material, square, table, words
from benchmarks.serving.intervals import Median, median
from benchmarks.serving.metagraft import copied, multiply, serving
from benchmarks.serving.results import Section, Table, figure, shown
from benchmarks.serving.systems import Input, System

CONCURRENCY = 16
COUNTS, QUICK_COUNTS = (1, 10, 100, 1_000, 10_000), (1, 10, 100)
TOKENS, SIDES, COLUMNS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 224, 512, 1024), (5, 10, 50, 200)
#: Requests of one load: texts and images take long.
LARGE, ROWS = 200, 1000

#: Of a plot: a title, and for each line its points x, value, low, high.
Plot = dict[str, object]
Point = tuple[float, Median]
#: An input of the wanted size, for each seed another.
Make = Callable[[int], Input]


def column_models() -> dict[str, int]:
    """Names of the tabular models that differ in their columns; they are adapted with the others."""
    return {f"tabular-{columns}": columns for columns in COLUMNS}


def run(bench: Bench) -> tuple[Section, list[Plot]]:
    """The section, and what is to be drawn of it."""
    tables, plots = [], []
    for modality, grafted in (("tabular", False), ("text", False), ("text", True)):
        kind = f"{modality}, head{' and offsets' if grafted else ' alone'}"
        rates, memory = _models(bench, modality, grafted=grafted)
        tables.append(_table(f"Models in one process, {kind}:", "models", rates, memory))
        plots += [
            _plot("requests/s by number of models", kind, rates),
            _plot("PSS MiB by number of models", kind, memory),
        ]
    for name, points in _sizes(bench).items():
        tables.append(_table(f"Size of an input, {name}:", name, points, []))
        plots.append(_plot(f"requests/s by {name}", name, points))
    section = Section(
        name="curves",
        protocol=f"Concurrency {CONCURRENCY}; models are asked at random. Memory: once every model was asked.",
        tables=tables,
    )
    return section, plots


def _models(bench: Bench, modality: str, *, grafted: bool) -> tuple[list[Point], list[Point]]:
    rates: list[Point] = []
    memory: list[Point] = []
    for count in QUICK_COUNTS if bench.quick else COUNTS:
        home = copied(bench.home, bench.folder / f"curve-{modality}-{grafted}-{count}")
        names = multiply(home, modality, count, grafted=grafted)
        with serving(home, bench.folder / "curve-log") as system:
            _asked(bench, system, names, fresh(bench, modality, 70_000, count), 600.0)
            found = [_at_random(bench, system, modality, names, repeat) for repeat in range(_repeats(bench))]
            rates.append((count, median([sample.load.per_second for sample in found])))
            memory.append((count, median([trees.memory(system.pid).pss])))
    return rates, memory


def _repeats(bench: Bench) -> int:
    """A point of a curve has neighbours, so fewer do."""
    return min(3, bench.repeats)


def _at_random(bench: Bench, system: System, modality: str, names: Sequence[str], repeat: int) -> Sample:
    draw = random.Random(repeat)  # noqa: S311 - a benchmark
    values = fresh(bench, modality, 71_000 + repeat, int(1500 * bench.seconds))
    return _asked(bench, system, draw.choices(names, k=len(values)), values, bench.seconds)


def _asked(bench: Bench, system: System, names: Sequence[str], values: Sequence[Input], seconds: float) -> Sample:
    requests = [
        system.ask(name, value, bench.labels[name.partition(".")[0]])
        for name, value in zip(names, values, strict=True)
    ]  # fmt: skip
    sample = measure(bench.generator, system, requests, CONCURRENCY, seconds)
    if sample.load.wrong:
        raise RuntimeError(f"{sample.load.wrong} wrong answers: {sample.load.complaint}")
    return sample


def _sizes(bench: Bench) -> dict[str, list[Point]]:
    """By what the size is counted in."""
    found: dict[str, list[Point]] = {"tokens": [], "image side, pixels": [], "columns": []}
    with serving(bench.home, bench.folder / "curve-sizes") as system:
        for size in TOKENS:
            found["tokens"].append((size, _rate(bench, system, "text", partial(words, size - 2))))
        for size in SIDES:
            found["image side, pixels"].append((size, _rate(bench, system, "image", partial(square, size))))
        for name, columns in column_models().items():
            found["columns"].append((columns, _rate(bench, system, name, partial(_row, table(columns)), ROWS)))
    return found


def _row(material: Material, seed: int) -> Input:
    return next(material.distinct(seed))


def _rate(bench: Bench, system: System, model: str, make: Make, count: int = LARGE) -> Median:
    rates = []
    for repeat in range(-1, _repeats(bench)):
        values = [make(1000 * (repeat + 1) + number) for number in range(count)]
        sample = _asked(bench, system, [model] * count, values, bench.seconds)
        if repeat >= 0:
            rates.append(sample.load.per_second)
    return median(rates)


def _table(title: str, x: str, rates: Sequence[Point], memory: Sequence[Point]) -> Table:
    held = {count: figure(found.value) for count, found in memory}
    lines = [[f"{size:g}", shown(found), *([held[size]] if held else [])] for size, found in rates]
    return Table(title=title, head=(x, "requests/s", *(["PSS MiB"] if held else [])), lines=lines)


def _plot(panel: str, line: str, points: Sequence[Point]) -> Plot:
    return {
        "panel": panel, "line": line,
        "points": [(size, found.value, found.low, found.high) for size, found in points],
    }  # fmt: skip
