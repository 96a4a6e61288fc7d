"""What the service adds to the bare encoder while nothing else happens."""

import sys

from benchmarks.serving.bench import Bench, fresh, measure
from benchmarks.serving.intervals import median, percentile
from benchmarks.serving.lines import Child, child
from benchmarks.serving.metagraft import serving
from benchmarks.serving.results import Section, Table, goal, shown
from benchmarks.serving.systems import Input

ALLOWED_MS = 2.0
REQUESTS = 30


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
                    requests = [system.ask(modality, value, bench.labels[modality]) for value in values]
                    both = _bare_ms(encoder, values), measure(bench.generator, system, requests, 1, 600.0).load.p50_ms
                    if repeat >= 0:
                        bare.append(both[0])
                        over_http.append(both[1])
            added = [b - a for a, b in zip(bare, over_http, strict=True)]
            lines.append([modality, *(shown(median(values)) for values in (bare, over_http, added))])
            goals.append(goal(f"{modality}: idle p50 above the bare encoder", added, ALLOWED_MS, "ms", at_most=True))
    return Section(
        name="idle",
        protocol=(
            f"One request at a time, {REQUESTS} a repeat, beside the same inputs one by one through `Encoder.encode` "
            "in a process of its own. p50 of each."
        ),
        tables=[Table(title="Latency:", head=("input", "bare ms", "over HTTP ms", "added ms"), lines=lines)],
        goals=goals,
    )


def _bare_ms(encoder: Child, values: list[Input]) -> float:
    questions = [{"inputs": [value], "batch_size": 1, "decoded": False} for value in values]
    return percentile([1000 * encoder.ask(question)["seconds"] for question in questions], 50)
