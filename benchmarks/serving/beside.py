"""One request at a time, one model: Metagraft, with its key check and metrics, beside peers without either."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.learning.results import Goal
from benchmarks.serving import trees
from benchmarks.serving.bench import Bench, Samples, complaints_in, interleaved, peers, under_load, verified, wrong_in
from benchmarks.serving.intervals import ratios
from benchmarks.serving.load import Request
from benchmarks.serving.metagraft import DEFAULT_TABLE, NAME, serving
from benchmarks.serving.peers.running import MLSERVER, MLSERVER_PIPELINE, MLSERVER_WORKER
from benchmarks.serving.results import LOAD_HEAD, Section, Table, figure, goal, load_cells
from benchmarks.serving.systems import Input, System

CONCURRENCY = {"tabular": (1, 8, 32), "text": (1, 8, 16, 32), "image": (1, 8, 32)}
QUICK_CONCURRENCY = (8,)
#: Without worker processes MLServer is cheapest. A runtime of scikit-learn is what its users serve a table with.
COMPARED = (MLSERVER_PIPELINE, MLSERVER_WORKER, MLSERVER)
_WORK = {
    "tabular": (
        "one row of ten numbers; the same linear head on the same quantile scores everywhere, but in MLServer's own "
        "runtime for scikit-learn: quantile scores and a logistic regression fitted on the same rows"
    ),
    "text": "one short request of a user; MiniLM and the same linear head everywhere",
    "image": "one photo, base64 in JSON; EfficientNet-Lite0 and the same linear head everywhere",
}


def tabular(bench: Bench) -> Section:
    return _section(bench, "tabular")


def text(bench: Bench) -> Section:
    return _section(bench, "text")


def image(bench: Bench) -> Section:
    return _section(bench, "image")


def _section(bench: Bench, modality: str) -> Section:
    notes: list[str] = []
    models = bench.exported / modality
    others = peers(bench, models, notes, tables=modality == "tabular")
    with serving(bench.home, bench.folder / f"beside-{modality}") as own, others as running:
        systems, wrong = _that_answer(bench, [own, *_by_default(bench, own, modality), *running], modality, notes)
        found = {
            concurrency: interleaved(systems, bench.repeats, under_load(bench, modality, concurrency))
            for concurrency in (QUICK_CONCURRENCY if bench.quick else CONCURRENCY[modality])
        }
        tables = [*(_table(samples, concurrency) for concurrency, samples in found.items()), _memory(systems)]
    notes += [complaint for samples in found.values() for complaint in complaints_in(samples)]
    n_wrong = wrong + sum(map(wrong_in, found.values()))
    goals = [goal(f"{modality}: wrong answers of all systems", [float(n_wrong)], 0, "", at_most=True)]
    if modality == "tabular":
        goals += [_cpu_goal(samples, concurrency, peer) for concurrency, samples in found.items() for peer in COMPARED]
    own_cost = max(
        sample.load.own_ms_per_request for samples in found.values() for s in samples.values() for sample in s
    )
    notes.append(f"The load generator itself computes at most {own_cost:.2f} ms a request, on the same cores.")
    return Section(
        name=f"beside-{modality}",
        protocol=f"{_WORK[modality]}. No two requests carry the same input.",
        tables=tables, goals=goals, notes=notes,
    )  # fmt: skip


def _by_default(bench: Bench, own: System, modality: str) -> list[System]:
    """Of tables: the same server asked for the model that a table gets by default, which has more to compute."""

    def ask(_model: str, value: Input, _labels: Sequence[str]) -> Request:
        return own.ask(DEFAULT_TABLE, value, bench.labels["tabular"])

    return [replace(own, name="Metagraft, default model", ask=ask)] if modality == "tabular" else []


def _that_answer(bench: Bench, systems: Sequence[System], modality: str, notes: list[str]) -> tuple[list[System], int]:
    """Those that can be asked at all, and how many of their answers to inputs with a known label are wrong."""
    found, wrong = [], 0
    for system in systems:
        try:
            load = verified(bench, system, modality)
        except RuntimeError as error:
            notes.append(f"{system.name} is missing: {error}")
            continue
        found.append(system)
        wrong += load.wrong
        if load.wrong:
            notes.append(f"{system.name}: {load.complaint}")
    return found, wrong


def _table(samples: Samples, concurrency: int) -> Table:
    lines = [[name, *load_cells(several)] for name, several in samples.items()]
    return Table(title=f"Concurrency {concurrency}:", head=("system", *LOAD_HEAD), lines=lines)


def _memory(systems: Sequence[System]) -> Table:
    servers = {system.pid: system.name for system in reversed(systems)}
    held = {name: trees.memory(pid) for pid, name in reversed(servers.items())}
    lines = [[name, figure(memory.rss), figure(memory.pss)] for name, memory in held.items()]
    return Table(
        title="Memory after that, one model loaded (Metagraft has its text and its image encoder loaded too):",
        head=("system", "RSS MiB", "PSS MiB"),
        lines=lines,
    )


def _cpu_goal(samples: Samples, concurrency: int, peer: str) -> Goal:
    cpu = {name: [sample.cpu_ms for sample in several] for name, several in samples.items()}
    values = ratios(cpu[NAME], cpu[peer]) if peer in cpu else []
    text = f"one tabular row at concurrency {concurrency}: CPU a request over that of {peer}"
    return goal(text, values, 1.0, "times", at_most=True)
