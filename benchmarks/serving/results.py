"""What a part of the benchmark hands back, how it is kept as JSON, and how it reads as Markdown."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.learning.records import commit, machine
from benchmarks.learning.results import Goal
from benchmarks.learning.tables import aligned
from benchmarks.serving.bench import Sample
from benchmarks.serving.intervals import Median, median


@dataclass(frozen=True, kw_only=True)
class Table:
    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """`goals` are the figures with a requirement, `notes` say what the figures do not."""

    name: str
    protocol: str
    tables: Sequence[Table] = ()
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    error: str = ""
    """A traceback, where the part could not be carried out."""
    seconds: float = 0.0


def figure(value: float) -> str:
    """Three digits that count."""
    if not math.isfinite(value):
        return "-"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 3)}f}"


def shown(found: Median) -> str:
    return f"{figure(found.value)} [{figure(found.low)}, {figure(found.high)}]"


_COLUMNS: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("requests/s", lambda sample: sample.load.per_second),
    ("p50 ms", lambda sample: sample.load.p50_ms),
    ("p99 ms", lambda sample: sample.load.p99_ms),
    ("CPU ms/request", lambda sample: sample.cpu_ms),
)
LOAD_HEAD = tuple(name for name, _ in _COLUMNS)


def load_cells(samples: Sequence[Sample]) -> list[str]:
    """A cell for each of `LOAD_HEAD`."""
    return [shown(median([of(sample) for sample in samples])) for _, of in _COLUMNS]


def goal(text: str, values: Sequence[float], required: float, unit: str, *, at_most: bool) -> Goal:
    """Of the median of `values`, shown with its interval; without values it is not reached."""
    wanted = f"at {'most' if at_most else 'least'} {required:g} {unit}".strip()
    if not values:
        return Goal(text=text, required=wanted, value=math.nan, reached=False)
    found = median(values)
    reached = found.value <= required if at_most else found.value >= required
    interval = (found.low, found.high) if len(values) > 1 else None
    return Goal(text=text, required=wanted, value=found.value, reached=reached, interval=interval)


def write(section: Section, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = asdict(section) | {"date": today(), "machine": machine(), "commit": commit()}
    (folder / f"{section.name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def markdown(sections: Sequence[Section], command: str) -> str:
    """A chapter for docs/benchmarks.md."""
    minutes = sum(section.seconds for section in sections) / 60
    head = [
        f"## {today()}  Serving, beside peers",
        f"{machine()}. Version {commit()}. Command: `{command}`, {minutes:.0f} minutes.",
        "Medians over repeats in which the systems take turns, with distribution-free 95 % intervals (of fewer than",
        "six repeats: smallest and largest). CPU is that of a server's whole process tree.",
    ]
    return "\n\n".join(["\n".join(head), goals_table(sections), *map(_text, sections)])


def goals_table(sections: Iterable[Section]) -> str:
    lines: list[Sequence[str]] = []
    for section in sections:
        if section.error:
            lines.append((section.name, "-", "-", section.error.strip().splitlines()[-1][:100], "failed"))
        lines += [_goal_line(section.name, found) for found in section.goals]
    return aligned(("part", "measure", "required", "this run", "reached"), lines)


def _goal_line(part: str, found: Goal) -> tuple[str, ...]:
    value = figure(found.value)
    if found.interval is not None:
        value += f" [{figure(found.interval[0])}, {figure(found.interval[1])}]"
    return part, found.text, found.required, value, "reached" if found.reached else "not reached"


def _text(section: Section) -> str:
    parts = [f"### {section.name}\n{section.protocol}"]
    if section.error:
        parts.append(f"Failed:\n```\n{section.error.strip()}\n```")
    parts += [f"{table.title}\n\n{aligned(table.head, table.lines)}" for table in section.tables]
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts)


def all_reached(sections: Iterable[Section]) -> bool:
    return all(not section.error and all(found.reached for found in section.goals) for section in sections)
