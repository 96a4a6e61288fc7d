"""Limits that a process which parses untrusted bytes puts on itself. Imports nothing of the service, to start fast.

A limit that the system does not let a process set is left as it is: the parent's time-out holds all the same.
"""

import resource
from contextlib import suppress
from pathlib import Path

_OPEN_FILES = 64
#: What a Python process takes where the system does not say.
_USUAL_ADDRESSES = 2**30


def confine(memory_bytes: int) -> None:
    """From now on this process gets `memory_bytes` more at most, few open files, and leaves no core file."""
    _limit(resource.RLIMIT_AS, _addresses() + memory_bytes)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)


def allow_cpu(seconds: int) -> None:
    """The kernel ends this process once it has computed `seconds` from now; a later call begins anew."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + 1 + seconds
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(kind: int, value: int) -> None:
    """Lowers both limits, so that they cannot be raised again."""
    _, hard = resource.getrlimit(kind)
    lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (lower, lower))


def _addresses() -> int:
    """Bytes of addresses that this process has mapped."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_ADDRESSES
    return pages * resource.getpagesize()
