"""How soon 16 labelled reviews are a model: a job on a running service, and SetFit's training, on one machine.

The service has a meta-learner of other review domains, trained before the clock starts, as it would be in use. The
reviews of every repetition are new to it, so none of their features are cached. Neither side loads its encoder on
the clock.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning import data
from benchmarks.learning.baselines.setfit import ROUNDS, train_setfit
from benchmarks.learning.data import Examples
from benchmarks.learning.results import Bench, SuiteResult, at_least, row
from benchmarks.learning.service import Service, running_service
from learning.encoders.text import load_minilm

SOURCES = ("books", "dvd", "electronics", "imdb")
TARGET = "toys_games"
SHOTS = 8
SOURCE_ROWS = 100
TEST_ROWS = 100
#: How good the graft becomes does not matter for the time; that there is one does.
GRAFT_STEPS = 5
JOB_SECONDS = 1200
#: SetFit with the paper's number of pairs, and with its package's newer default.
PAPER, ONCE = f"SetFit, {ROUNDS} rounds of pairs", "SetFit, each pair once"

Seconds = dict[str, list[float]]


def run(bench: Bench) -> SuiteResult:
    repeats = 2 if bench.quick else 6
    pool = data.sentiment(bench.data, TARGET, "train")
    labels_N = torch.tensor([pool.classes.index(label) for label in pool.labels])
    order = {label: (labels_N == i).nonzero()[:, 0] for i, label in enumerate(pool.classes)}

    def support(repeat: int) -> Examples[str]:
        """Reviews that no other repetition has."""
        rows = [order[label][repeat * SHOTS : (repeat + 1) * SHOTS] for label in pool.classes]
        return pool.select(torch.cat(rows).tolist())

    with tempfile.TemporaryDirectory(prefix="metagraft-bench-") as folder:
        seconds, hits, chosen = _service(bench, Path(folder), support, repeats)
    setfit, setfit_hits = _setfit(bench, support)
    seconds |= setfit
    hits |= setfit_hits
    return _result(seconds, hits, chosen, len(_test(bench)))


def _service(
    bench: Bench, folder: Path, support: Callable[[int], Examples[str]], repeats: int
) -> tuple[Seconds, Seconds, list[str]]:
    seconds: Seconds = {"job": [], "upload": []}
    hits: Seconds = {"auto on the service": []}
    chosen = []
    test = _test(bench)
    with running_service(folder, threads=bench.threads) as service:
        meta_learner = _meta_learner(bench, service)
        for repeat in range(-1, repeats):  # the first one only warms up
            began = time.perf_counter()
            dataset = service.upload(f"reviews{repeat}", support(repeat + 1))
            uploaded = time.perf_counter()
            job = service.run(
                kind="adapt", dataset=dataset, model="reviews", meta_learner=meta_learner, seconds=JOB_SECONDS
            )
            ready = time.perf_counter()
            if repeat < 0:
                continue
            seconds["job"].append(ready - uploaded)
            seconds["upload"].append(ready - began)
            chosen.append(_chosen(job))
            if job["state"] == "succeeded":
                predicted = service.predict("reviews", job["result"]["version"], list(test.inputs))
                hits["auto on the service"].append(_share_right(predicted, test))
    return seconds, hits, chosen


def _chosen(job: dict[str, Any]) -> str:
    """The strategy that was published; a refusal to publish is an answer too, any other failure is not."""
    if job["state"] == "succeeded":
        return str(job["result"]["report"]["strategy"])
    if (job.get("error") or {}).get("code") == "useless_model":
        return "refused"
    raise RuntimeError(f"the job {job['state']}: {job.get('error')}")


def _meta_learner(bench: Bench, service: Service) -> str:
    rows = 40 if bench.quick else SOURCE_ROWS
    sources = [service.upload(name, data.sentiment(bench.data, name, "train", rows)) for name in SOURCES]
    options = {"graft": {"steps": 0 if bench.quick else GRAFT_STEPS}, "evaluation_episodes": 20}
    job = service.run(kind="meta_train", name="reviews", sources=sources, options=options, seconds=JOB_SECONDS)
    if job["state"] != "succeeded":
        raise RuntimeError(f"meta-training {job['state']}: {job.get('error')}")
    return str(job["result"]["meta_learner"])


def _setfit(bench: Bench, support: Callable[[int], Examples[str]]) -> tuple[Seconds, Seconds]:
    """With the paper's number of pairs, once (it takes minutes; not in the short form), and with the fewer of its
    package's newer default."""
    encoder = load_minilm()
    test = _test(bench)
    torch.set_num_threads(bench.threads)
    forms = {ONCE: (None, 1)} if bench.quick else {PAPER: (ROUNDS, 1), ONCE: (None, 1)}
    seconds: Seconds = {name: [] for name in forms}
    hits: Seconds = {name: [] for name in forms}
    for name, (rounds, trainings) in forms.items():
        for repeat in range(trainings):
            few = support(repeat + 1)
            began = time.perf_counter()
            model = train_setfit(encoder, few.inputs, few.labels, seed=repeat, rounds=rounds)
            seconds[name].append(time.perf_counter() - began)
            hits[name].append(_share_right(model.predict(test.inputs), test))
    torch.set_num_threads(1)
    return seconds, hits


def _test(bench: Bench) -> Examples[str]:
    return data.sentiment(bench.data, TARGET, "test", TEST_ROWS // 3 if bench.quick else TEST_ROWS)


def _share_right(predicted: list[str], test: Examples[str]) -> float:
    return 100 * statistics.fmean(a == b for a, b in zip(predicted, test.labels, strict=True))


def _result(seconds: Seconds, hits: Seconds, chosen: list[str], n_test: int) -> SuiteResult:
    job = statistics.median(seconds["job"])
    times = {name: statistics.median(seconds[name]) / job for name in (PAPER, ONCE) if name in seconds}
    compared = next(iter(times))
    names = {"job": "Metagraft, job to ready", "upload": "Metagraft, upload and job to ready"}
    accuracies = ", ".join(f"{name} {statistics.fmean(v):.1f} % ({len(v)})" for name, v in hits.items() if v)
    return SuiteResult(
        name="serving_speed",
        protocol=(
            f"{SHOTS} labelled reviews per class of {TARGET}, new ones every time; a meta-learner of "
            f"{', '.join(SOURCES)} is on the service. SetFit trains on the same reviews and machine, when the service "
            "has stopped. Intervals over repetitions; the goal compares medians."
        ),
        unit="seconds",
        rows=[row("16 reviews", names.get(name, name), values) for name, values in seconds.items()],
        goals=[at_least(f"seconds of {compared}, over the job's", times[compared], 20, "times")],
        notes=[
            f"Against each pair once, the package's newer default, it is {times[ONCE]:.1f} times.",
            f"Chosen: {', '.join(f'{name} {chosen.count(name)}' for name in sorted(set(chosen)))}.",
            f"Accuracy on {n_test} test rows, of what was timed: {accuracies}.",
        ],
    )
