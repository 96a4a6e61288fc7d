"""What is kept of a suite's run: its figures, or how it failed, with date, version, machine, command and seconds."""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.learning.results import Goal, Row, SuiteResult


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one suite. `error` is a traceback where it crashed, and then there is no `result`."""

    suite: str
    quick: bool
    date: str
    commit: str
    machine: str
    command: str
    seconds: float
    result: SuiteResult | None
    error: str = ""


def make_record(
    suite: str, *, quick: bool, seconds: float, result: SuiteResult | None = None, error: str = ""
) -> Record:
    return Record(
        suite=suite,
        quick=quick,
        date=datetime.now(UTC).date().isoformat(),
        commit=f"{version('metagraft')} ({commit()})",
        machine=machine(),
        command=f"python -m benchmarks.learning {suite}{' --quick' if quick else ''}",
        seconds=seconds,
        result=result,
        error=error,
    )


def write(record: Record, folder: Path) -> Path:
    """Replaces the suite's former record of the same form (short or whole)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, record.suite, quick=record.quick)
    path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path, suites: Iterable[str], *, quick: bool) -> list[Record]:
    """The stored records of `suites`, in their order; suites without one are left out."""
    paths = [_path(folder, suite, quick=quick) for suite in suites]
    return [_record(json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]


def _path(folder: Path, suite: str, *, quick: bool) -> Path:
    return folder / f"{suite}{'.quick' if quick else ''}.json"


def _record(stored: dict[str, Any]) -> Record:
    result = stored["result"]
    if result is not None:
        rows = [Row(**row) for row in result["rows"]]
        goals = [Goal(**goal | {"interval": _pair(goal["interval"])}) for goal in result["goals"]]
        result = SuiteResult(**result | {"rows": rows, "goals": goals})
    return Record(**stored | {"result": result})


def _pair(ends: list[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (ends[0], ends[1])


def machine() -> str:
    """Cores, memory and GPU of this one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, GPU: {gpu}"


def commit() -> str:
    """The checkout's commit, marked where tracked files differ from it; "unknown" outside a checkout."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + (" with changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()
