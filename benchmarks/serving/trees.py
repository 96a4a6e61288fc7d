"""What a process and all its descendants have computed and hold in memory."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Memory:
    """MiB. `pss` counts a page shared by n processes as 1/n of a page in each."""

    rss: float
    pss: float


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, of its children that have ended as well."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(pid: int) -> Memory:
    """Of the tree."""
    rss = pss = 0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            held = process.memory_full_info()
            rss, pss = rss + held.rss, pss + held.pss
    return Memory(rss=rss / MIB, pss=pss / MIB)


def _tree(pid: int) -> Iterable[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []
