"""From the start of the process until it answers."""

import time
from pathlib import Path

from benchmarks.serving.bench import Bench, fresh, measure
from benchmarks.serving.intervals import median
from benchmarks.serving.metagraft import serving
from benchmarks.serving.results import Section, Table, goal, shown

#: What has been answered when the service counts as started; with and without encoders loaded in the background.
CASES = ((("text", "image"), True, 6.0), (("tabular",), False, 3.0))


def run(bench: Bench) -> Section:
    lines, goals = [], []
    for modalities, warm_up, limit in CASES:
        name = f"ready and first answer: {', '.join(modalities)}"
        seconds = [_seconds(bench, modalities, repeat, warm_up=warm_up) for repeat in range(max(3, bench.repeats - 2))]
        lines.append([name, shown(median(seconds))])
        goals.append(goal(name, seconds, limit, "s", at_most=True))
    return Section(
        name="starting",
        protocol=(
            "`metagraft api` on its data folder: seconds until /readyz says yes and one request of each modality is "
            "answered, the files in the system's cache; tables alone with METAGRAFT_WARM_UP=false."
        ),
        tables=[Table(title="Start:", head=("until", "seconds"), lines=lines)],
        goals=goals,
    )


def _seconds(bench: Bench, modalities: tuple[str, ...], repeat: int, *, warm_up: bool) -> float:
    log: Path = bench.folder / "starting"
    began = time.perf_counter()
    with serving(bench.home, log, warm_up=warm_up) as system:
        for modality in modalities:
            (value,) = fresh(bench, modality, 95_000 + repeat, 1)
            request = system.ask(modality, value, bench.labels[modality])
            if (load := measure(bench.generator, system, [request], 1, 600.0).load).wrong:
                raise RuntimeError(load.complaint)
        return time.perf_counter() - began
