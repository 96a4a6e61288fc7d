"""One request at a time, one model: Metagraft, with its key check and metrics, beside peers without either."""

from collections.abc import Sequence

from benchmarks.learning.results import Goal
from benchmarks.serving import trees
from benchmarks.serving.bench import Bench, Samples, complaints_in, interleaved, peers, under_load, verified, wrong_in
from benchmarks.serving.intervals import ratios
from benchmarks.serving.metagraft import NAME, serving
from benchmarks.serving.peers.running import MLSERVER
from benchmarks.serving.results import LOAD_HEAD, Section, Table, figure, goal, load_cells
from benchmarks.serving.systems import System

CONCURRENCY = {"tabular": (1, 8, 32), "text": (1, 8, 16, 32), "image": (1, 8, 32)}
_WORK = {
    "tabular": "one row of ten numbers; the same linear head on the same quantile scores everywhere",
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
    with serving(bench.home, bench.folder / f"beside-{modality}") as own, peers(bench, models, notes) as others:
        systems, wrong = _that_answer(bench, [own, *others], modality, notes)
        found = {
            concurrency: interleaved(systems, bench.repeats, under_load(bench, modality, concurrency))
            for concurrency in CONCURRENCY[modality][: 2 if bench.quick else None]
        }
        tables = [*(_table(samples, concurrency) for concurrency, samples in found.items()), _memory(systems)]
    notes += [complaint for samples in found.values() for complaint in complaints_in(samples)]
    n_wrong = wrong + sum(map(wrong_in, found.values()))
    goals = [goal(f"{modality}: wrong answers of all systems", [float(n_wrong)], 0, "", at_most=True)]
    if modality == "tabular":
        goals += [_cpu_goal(samples, concurrency) for concurrency, samples in found.items()]
    own_cost = max(
        sample.load.own_ms_per_request for samples in found.values() for s in samples.values() for sample in s
    )
    notes.append(f"The load generator itself computes at most {own_cost:.2f} ms a request, on the same cores.")
    return Section(
        name=f"beside-{modality}",
        protocol=f"{_WORK[modality]}. No two requests carry the same input.",
        tables=tables, goals=goals, notes=notes,
    )  # fmt: skip


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
    held = {system.name: trees.memory(system.pid) for system in systems}
    lines = [[name, figure(memory.rss), figure(memory.pss)] for name, memory in held.items()]
    return Table(title="Memory after that, one model loaded:", head=("system", "RSS MiB", "PSS MiB"), lines=lines)


def _cpu_goal(samples: Samples, concurrency: int) -> Goal:
    """MLServer without worker processes is the cheaper of its forms."""
    cpu = {name: [sample.cpu_ms for sample in several] for name, several in samples.items()}
    values = ratios(cpu[NAME], cpu[MLSERVER]) if MLSERVER in cpu else []
    text = f"one tabular row at concurrency {concurrency}: CPU a request over MLServer's"
    return goal(text, values, 1.0, "times", at_most=True)
