"""What it costs to be another model: one that is not loaded yet, and one that is."""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.bench import Bench, Sample, fresh, measure
from benchmarks.serving.intervals import percentile
from benchmarks.serving.metagraft import Home, copied, multiply, serving
from benchmarks.serving.results import Section, Table, figure, goal
from benchmarks.serving.systems import Input, System

MODELS, QUICK_MODELS = 300, 60
WARM = 50


def run(bench: Bench) -> Section:
    count = QUICK_MODELS if bench.quick else MODELS
    home = copied(bench.home, bench.folder / "switching")
    names = multiply(home, "text", count, grafted=True)
    forget_files(home)
    with serving(home, bench.folder / "switching-log") as system:
        _ask(bench, system, ["text"] * WARM, seed=1)  # the encoder is loaded, no copy is
        cold = _ask(bench, system, names, seed=2)
        rounds = [_round(bench, system, names[-WARM:], repeat) for repeat in range(bench.repeats)]
    cold_ms = list(cold.load.latencies_ms)
    staying, switching = ([p for pair in rounds for p in pair[kind].load.latencies_ms] for kind in (0, 1))
    added = [percentile(b.load.latencies_ms, 99) - percentile(a.load.latencies_ms, 99) for a, b in rounds]
    wrong = cold.load.wrong + sum(sample.load.wrong for pair in rounds for sample in pair)
    return Section(
        name="switching",
        protocol=(
            "Text models with a head and offsets of the encoder's normalisation layers, one request at a time, each "
            f"with a text of its own. Cold: {count} models that this process has not read, their files dropped from "
            f"the system's cache. Warm: {WARM} loaded models in turn, beside the same texts to one of them."
        ),
        tables=[
            Table(
                title="Latency over HTTP, the encoder included:",
                head=("request", "p50 ms", "p99 ms", "requests"),
                lines=[
                    _line("to a cold model", cold_ms),
                    _line("to the same model as before", staying),
                    _line("to another warm model", switching),
                ],
            )
        ],
        goals=[
            goal("cold graft from local disk: p99", [percentile(cold_ms, 99)], 50, "ms", at_most=True),
            goal("warm switch between models: what it adds to p99", added, 5, "ms", at_most=True),
            goal("switching: wrong answers", [float(wrong)], 0, "", at_most=True),
        ],
        notes=[cold.load.complaint] if cold.load.wrong else [],
    )


def _line(name: str, latencies: Sequence[float]) -> tuple[str, ...]:
    return name, figure(percentile(latencies, 50)), figure(percentile(latencies, 99)), str(len(latencies))


def _round(bench: Bench, system: System, names: Sequence[str], repeat: int) -> tuple[Sample, Sample]:
    """Staying with one model, and going from one to the next; which is first changes from round to round."""
    times = 2 if bench.quick else 6
    orders = ([names[0]] * len(names) * times, list(names) * times)
    first = repeat % 2
    samples = {place: _ask(bench, system, orders[place], seed=10 + 2 * repeat + place) for place in (first, 1 - first)}
    return samples[0], samples[1]


def _ask(bench: Bench, system: System, models: Sequence[str], seed: int) -> Sample:
    values: list[Input] = fresh(bench, "text", 50_000 + seed, len(models))
    requests = [system.ask(model, value, bench.labels["text"]) for model, value in zip(models, values, strict=True)]
    return measure(bench.generator, system, requests, 1, 600.0)


def forget_files(home: Home) -> None:
    """Drops the stored models from the system's file cache, where it allows that."""
    for path in Path(home.settings.resolved_storage_url).rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
