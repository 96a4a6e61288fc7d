"""Runs suites, in turn or side by side. Apart from the command, because a new process has to find it by its name."""

import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context

import torch

from benchmarks.learning import records
from benchmarks.learning.records import Record
from benchmarks.learning.results import Bench, SuiteResult

#: Their figures are seconds: nothing may run beside them.
TIMED = ("task_speed", "serving_speed")


def run_all(suites: Sequence[str], bench: Bench, jobs: int) -> Iterator[Record]:
    """The record of each suite when it ends. With one job all run in this process, else each in one of its own."""
    if jobs == 1:
        yield from (run_suite(suite, bench) for suite in suites)
        return
    yield from _beside_each_other([suite for suite in suites if suite in TIMED], bench, 1)
    yield from _beside_each_other([suite for suite in suites if suite not in TIMED], bench, jobs)


def _beside_each_other(suites: Sequence[str], bench: Bench, jobs: int) -> Iterator[Record]:
    """At most `jobs` at a time, which share the threads."""
    jobs = max(1, min(jobs, len(suites)))
    share = replace(bench, threads=max(1, bench.threads // jobs))
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(run_suite, suite, share): suite for suite in suites}
        for ended in as_completed(running):
            try:
                yield ended.result()
            except BrokenProcessPool as error:  # killed, for memory as a rule
                yield records.make_record(running[ended], quick=bench.quick, seconds=0.0, error=str(error))


def run_suite(suite: str, bench: Bench) -> Record:
    """One suite, with nothing left over from the one before it but what is in the cache."""
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        result: SuiteResult = import_module(f"benchmarks.learning.{suite}").run(bench)
    except Exception:  # noqa: BLE001 - whatever goes wrong in one suite, the others go on
        seconds = time.monotonic() - started
        return records.make_record(suite, quick=bench.quick, seconds=seconds, error=traceback.format_exc())
    return records.make_record(suite, quick=bench.quick, seconds=time.monotonic() - started, result=result)
