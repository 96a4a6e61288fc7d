"""Records as tables: Markdown that is aligned, so that it reads as well on a terminal."""

from collections.abc import Iterable, Sequence
from itertools import chain

from benchmarks.learning.records import Record
from benchmarks.learning.results import Goal, Row

#: More settings than this would make a table too wide to read; they become lines.
MAX_COLUMNS = 5

Cells = Sequence[str]


def aligned(head: Cells, lines: Iterable[Cells]) -> str:
    """A Markdown table with columns of one width."""
    body = [[cell.replace("|", "/") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * width for width in widths]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, rule, *body])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def goals_table(records: Sequence[Record]) -> str:
    """suite, goal, required, this run, reached or not; a suite that failed has one line that says so."""
    lines: list[Cells] = []
    for record in records:
        if record.result is None:
            lines.append((record.suite, "-", "-", record.error.strip().splitlines()[-1][:80], "failed"))
            continue
        lines.extend(_goal_line(record.suite, goal) for goal in record.result.goals)
    return aligned(("suite", "goal", "required", "this run", "reached"), lines)


def _goal_line(suite: str, goal: Goal) -> Cells:
    digits = _digits([goal.value])
    value = f"{goal.value:.{digits}f}"
    if goal.interval is not None:
        value += f" [{goal.interval[0]:.{digits}f}, {goal.interval[1]:.{digits}f}]"
    return suite, goal.text, goal.required, value, "reached" if goal.reached else "not reached"


def rows_table(rows: Sequence[Row]) -> str:
    """Methods by settings where there are few settings, else a line for each; mean [low, high] (n)."""
    digits = _digits([row.mean for row in rows])
    settings = list(dict.fromkeys(row.setting for row in rows))
    if len(settings) > MAX_COLUMNS:
        lines = [(row.setting, row.method, _figure(row, digits), str(row.n)) for row in rows]
        return aligned(("setting", "method", "mean [95 % interval]", "n"), lines)
    cells = {(row.method, row.setting): f"{_figure(row, digits)} ({row.n})" for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    lines_by_method = [(method, *(cells.get((method, s), "") for s in settings)) for method in methods]
    return aligned(("method", *settings), lines_by_method)


def _figure(row: Row, digits: int) -> str:
    return f"{row.mean:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell figures of this size apart."""
    largest = max((abs(value) for value in values), default=0.0)
    return next((digits for least, digits in ((1000, 0), (5, 1), (1.05, 2)) if largest >= least), 3)


def suite_text(record: Record) -> str:
    """Protocol, rows and notes of one suite, or its traceback."""
    head = f"### {record.suite}\n`{record.command}`, {record.seconds:.0f} s."
    if record.result is None:
        return f"{head}\n\nFailed:\n```\n{record.error.strip()}\n```"
    result = record.result
    notes = "".join(f"\n- {note}" for note in result.notes)
    text = f"{head} {result.protocol}\nMean [95 % interval] (n) in {result.unit}.\n\n{rows_table(result.rows)}"
    return f"{text}\n{notes}" if notes else text


def report(records: Sequence[Record]) -> str:
    """What a run prints at its end."""
    return "\n\n".join([goals_table(records), *map(suite_text, records)])


def markdown(records: Sequence[Record]) -> str:
    """A section for docs/benchmarks.md."""
    dates = sorted({record.date for record in records})
    made = sorted({f"Version {record.commit}, {record.machine}" for record in records})
    minutes = sum(record.seconds for record in records) / 60
    quick = any(record.quick for record in records)
    head = [
        f"## {dates[-1]}  The learning core, suite by suite{', short form' if quick else ''}",
        *(f"{line}." for line in made),
        f"Command: `{'QUICK=1 ' if quick else ''}make bench-learning`, {minutes:.0f} minutes of work in all.",
    ]
    if len(dates) > 1:
        head.append(f"Measured from {dates[0]} to {dates[-1]}.")
    return "\n".join(chain(head, ["", report(records)]))
