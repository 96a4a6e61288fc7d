"""What the service adds to the bare encoder while nothing else happens."""

import sys
import time
from collections.abc import Sequence

from benchmarks.serving.bench import Bench, fresh, measure
from benchmarks.serving.intervals import median, percentile
from benchmarks.serving.lines import Child, child
from benchmarks.serving.metagraft import serving
from benchmarks.serving.results import Section, Table, goal, shown
from benchmarks.serving.systems import Input, System

ALLOWED_MS = 2.0
REQUESTS = 30
#: Rest before each call.
PAUSE_SECONDS = 0.02
#: Calls of one side before it is the other's turn.
STRETCH = 10


def run(bench: Bench) -> Section:
    lines, goals = [], []
    with serving(bench.home, bench.folder / "idle") as system:
        for modality in ("text", "image"):
            bare, over_http = [], []
            with child(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.encoder_child", "metagraft", modality]
            ) as encoder:
                for repeat in range(-1, bench.repeats):
                    values = fresh(bench, modality, 90_000 + repeat, REQUESTS)
                    both = _in_turn(bench, system, encoder, modality, values)
                    if repeat >= 0:
                        bare.append(both[0])
                        over_http.append(both[1])
            added = [b - a for a, b in zip(bare, over_http, strict=True)]
            lines.append([modality, *(shown(median(values)) for values in (bare, over_http, added))])
            goals.append(goal(f"{modality}: idle p50 above the bare encoder", added, ALLOWED_MS, "ms", at_most=True))
    return Section(
        name="idle",
        protocol=(
            f"One request at a time, {REQUESTS} a repeat, each after {1000 * PAUSE_SECONDS:.0f} ms of rest; the same "
            "inputs one by one through `Encoder.encode` in a process of its own, after as long a rest. They take turns "
            f"by stretches of {STRETCH}, each over one connection. p50 of each."
        ),
        tables=[Table(title="Latency:", head=("input", "bare ms", "over HTTP ms", "added ms"), lines=lines)],
        goals=goals,
    )


def _in_turn(
    bench: Bench, system: System, encoder: Child, modality: str, values: Sequence[Input]
) -> tuple[float, float]:
    """p50 of the bare encoder and over HTTP, each input on either side after the same pause.

    They take turns by stretches: each call of one empties the processor's caches for the next call of the other.
    """
    bare: list[float] = []
    over_http: list[float] = []
    for start in range(0, len(values), STRETCH):
        stretch = values[start : start + STRETCH]
        for value in stretch:
            time.sleep(PAUSE_SECONDS)
            question = {"inputs": [value], "batch_size": 1, "decoded": False}
            bare.append(1000 * encoder.ask(question)["seconds"])
        requests = [system.ask(modality, value, bench.labels[modality]) for value in stretch]
        load = measure(bench.generator, system, requests, 1, 600.0, pause_seconds=PAUSE_SECONDS).load
        if load.wrong:
            raise RuntimeError(load.complaint)
        over_http += load.latencies_ms
    return percentile(bare, 50), percentile(over_http, 50)
