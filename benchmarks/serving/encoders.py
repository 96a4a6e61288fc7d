"""The encoders alone, beside ONNX Runtime on the same cores."""

import sys
from collections.abc import Sequence

from benchmarks.learning import data
from benchmarks.learning.results import Goal
from benchmarks.serving.bench import Bench, fresh
from benchmarks.serving.inputs import words
from benchmarks.serving.intervals import median, ratios
from benchmarks.serving.lines import Child, child
from benchmarks.serving.peers.environments import CannotInstall, environment
from benchmarks.serving.results import Section, Table, goal, shown

OWN, OTHER = "Metagraft", "ONNX Runtime fp32"
BATCH = 32
#: A rounding of five digits, and two ways to sum float32.
SAME_WITHIN = 1e-3
_MODULE = "benchmarks.serving.encoder_child"

Rates = dict[str, list[float]]


def run(bench: Bench) -> Section:
    works = _works(bench)
    try:
        python = str(environment("onnxruntime", bench.environments) / "bin" / "python")
    except CannotInstall as error:
        goals = [_goal(text, {}) for _, text, _ in works]
        return Section(name="encoders", protocol="", goals=goals, notes=[f"ONNX Runtime is missing: {error}"])
    lines, goals, far = [], [], 0.0
    for modality in ("text", "image"):
        with (
            child([sys.executable, "-W", "ignore", "-m", _MODULE, "metagraft", modality]) as own,
            child([python, "-W", "ignore", "-m", _MODULE, "onnxruntime", modality]) as other,
        ):
            for _, text, inputs in [work for work in works if work[0] == modality]:
                rates, distance = _measured({OWN: own, OTHER: other}, inputs, bench.repeats)
                lines.append([text, *(shown(median(values)) for values in rates.values())])
                goals.append(_goal(text, rates))
                far = max(far, distance)
    goals.append(goal("encoders: largest difference of a feature", [far], SAME_WITHIN, "", at_most=True))
    return Section(
        name="encoders",
        protocol=f"Batches of {BATCH}, from texts and from decoded images; both with as many threads as torch takes.",
        tables=[Table(title="Inputs/s:", head=("work", OWN, OTHER), lines=lines)],
        goals=goals,
    )


def _works(bench: Bench) -> list[tuple[str, str, list[str]]]:
    """Modality, name and inputs of each comparison."""
    rows = BATCH if bench.quick else 4 * BATCH
    images = [str(image) for image in fresh(bench, "image", 7, BATCH if bench.quick else 2 * BATCH)]
    return [
        ("text", "texts of 14 tokens", [words(12, seed) for seed in range(rows)]),
        ("text", "texts of 50 tokens", [words(48, seed) for seed in range(rows)]),
        ("text", "texts of mixed lengths", _mixed(bench, rows)),
        ("image", "images of 224 pixels", images),
    ]


def _mixed(bench: Bench, rows: int) -> list[str]:
    """As many short requests as reviews."""
    short = [str(text) for text in fresh(bench, "text", 8, rows // 2)]
    if (bench.data / "sentiment").is_dir():
        return short + list(data.sentiment(bench.data, "books", "test", rows - rows // 2).inputs)
    return short + [words(8 + 5 * (seed % 40), seed) for seed in range(rows - rows // 2)]


def _measured(sides: dict[str, Child], inputs: Sequence[str], repeats: int) -> tuple[Rates, float]:
    """Inputs a second by side, and how far their features are apart at most."""
    rates: Rates = {name: [] for name in sides}
    question = {"inputs": list(inputs), "batch_size": BATCH, "decoded": True}
    features: dict[str, list[float]] = {}
    for repeat in range(-1, repeats):
        for name in sorted(sides, reverse=bool(repeat % 2)):
            answer = sides[name].ask(question)
            features[name] = answer["features"]
            if repeat >= 0:
                rates[name].append(len(inputs) / answer["seconds"])
    return rates, max(abs(a - b) for a, b in zip(features[OWN], features[OTHER], strict=True))


def _goal(text: str, rates: Rates) -> Goal:
    values = ratios(rates[OWN], rates[OTHER]) if rates else []
    return goal(f"{text}: inputs/s over ONNX Runtime's", values, 1.0, "times", at_most=False)
