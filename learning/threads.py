"""Which thread computes on which cores.

An OpenMP runtime gives each thread that computes in parallel helpers of its own, which spin while they wait for the
next operator. Once there are more of them than cores, GNU's runtime puts them to sleep instead, and waking them takes
longer than the operators of a short text. So one thread of a process has helpers, the one that runs encoders, and all
others compute alone. Where there is much to do even it has none: each core works on rows of its own, and nobody waits
for the others after every operator.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")


def compute_alone() -> None:
    """From here on the calling thread computes without helpers."""
    torch.get_num_threads()  # torch gives a thread its number when it is first asked, and must not do so later
    _openmp().limit(limits=1)
    _limit_mkl(1)


@contextmanager
def computing_alone() -> Iterator[None]:
    """Within, the calling thread computes without helpers; they spin on after the least of operators."""
    torch.get_num_threads()
    with _openmp().limit(limits=1):
        before = _limit_mkl(1)
        try:
            yield
        finally:
            _limit_mkl(before)


def shares(sizes: Sequence[int], *, least: int) -> list[list[int]]:
    """Rows by core: about as much on each, rows of like size on one, and on each no less than `least`.

    All rows on one where the calling thread computes alone.
    """
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    total = sum(sizes)
    n_shares = max(1, min(torch.get_num_threads(), total // least))
    found: list[list[int]] = [[] for _ in range(n_shares)]
    done = 0
    for row in order:
        found[min(n_shares - 1, done * n_shares // max(1, total))].append(row)
        done += sizes[row]
    return [share for share in found if share]


def each_on_a_core(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each returns, in order; one alone is done by the calling thread."""
    if len(works) == 1:
        return [works[0]()]
    return list(_cores().map(lambda work: work(), works))


def on_all_cores(work: Callable[[], Result]) -> Result:
    """What `work` returns in a thread of its own, which has helpers whether the calling one has any or not."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result()


@cache
def _cores() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="core", initializer=compute_alone)


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_cores.cache_clear)


@cache
def _openmp() -> Any:
    """The OpenMP runtimes of this process, whose numbers are each thread's own."""
    return ThreadpoolController().select(user_api="openmp")


def _limit_mkl(n_threads: int) -> int:
    """For the calling thread; 0: as all others. What it was before. Nothing in a torch without MKL."""
    limit = _mkl_limit()
    return 0 if limit is None else limit(n_threads)


@cache
def _mkl_limit() -> Callable[[int], int] | None:
    """MKL's function for the number of the calling thread, which torch does not offer."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None
    found: Callable[[int], int] | None = getattr(library, "MKL_Set_Num_Threads_Local", None)
    return found
