import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.learning import __main__ as frame
from benchmarks.learning import records, running, tables
from benchmarks.learning.results import Bench, SuiteResult, at_least, at_most, row


def suite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of that name that needs no data."""

    def run(bench: Bench) -> SuiteResult:
        return SuiteResult(
            name=name,
            protocol="Two seeds.",
            unit="%",
            rows=[row("k = 1", "auto", [80.0, 82.0]), row("k = 1", "target_only", [50.0, 50.0])],
            goals=[
                at_least("auto at k = 1", 81.0, 80, interval=(79.0, 83.0)),
                at_most("seconds", 3.0, 1, "s"),
            ],
            notes=["Made up."],
        )

    module = ModuleType(f"benchmarks.learning.{name}")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(bench: Bench) -> SuiteResult:
        raise RuntimeError("no such luck")

    module = ModuleType(f"benchmarks.learning.{name}")
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(data=tmp_path, cache=tmp_path / "cache", quick=True)


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.setattr(frame, "SUITES", ("first", "second"))
    # A process of its own would not know the suites made here.
    folders = ["--jobs", "1", "--data", str(folder), "--cache", str(folder / "cache")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, *folders])
    return frame.main()


def test_run_prints_goals_and_goes_on_after_a_crash(monkeypatch, tmp_path, capsys) -> None:
    broken("first", monkeypatch)
    suite("second", monkeypatch)
    assert start(monkeypatch, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    crashed = next(line for line in lines if line.startswith("| first"))
    assert "no such luck" in crashed
    assert "failed" in crashed
    reached, missed = (line for line in lines if line.startswith("| second"))
    assert "81.0 [79.0, 83.0]" in reached
    assert reached.rstrip(" |").endswith("| reached")
    assert missed.rstrip(" |").endswith("not reached")


def test_missed_goal_alone_is_no_failure(monkeypatch, tmp_path) -> None:
    suite("second", monkeypatch)
    assert start(monkeypatch, tmp_path, "second") == 0


def test_unknown_suite_is_refused_by_name(monkeypatch, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, "third")
    assert "third" in capsys.readouterr().err


def test_missing_data_is_named(monkeypatch, tmp_path, capsys) -> None:
    assert start(monkeypatch, tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().out


def test_record_survives_being_written_and_read(monkeypatch, bench) -> None:
    suite("first", monkeypatch)
    record = running.run_suite("first", bench)
    records.write(record, bench.cache)
    assert records.read(bench.cache, ["first", "second"], quick=True) == [record]
    assert records.read(bench.cache, ["first"], quick=False) == []


def test_markdown_states_what_a_published_figure_needs(monkeypatch, tmp_path, capsys) -> None:
    suite("first", monkeypatch)
    start(monkeypatch, tmp_path, "first")
    capsys.readouterr()
    assert start(monkeypatch, tmp_path, "--markdown") == 0
    text = capsys.readouterr().out
    for wanted in (
        "## 20",
        "cores",
        "make bench-learning",
        "python -m benchmarks.learning first",
        "Two seeds.",
        "Made up.",
    ):
        assert wanted in text
    assert "81.0 [79.0, 83.0] (2)" in text


def test_markdown_without_records_says_what_to_do(monkeypatch, tmp_path, capsys) -> None:
    assert start(monkeypatch, tmp_path, "--markdown") == 2
    assert "run the suites first" in capsys.readouterr().out


def test_many_settings_become_lines() -> None:
    rows = [row(f"table {i}", "auto", [0.5, 0.6]) for i in range(tables.MAX_COLUMNS + 1)]
    table = tables.rows_table(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert "0.550 [0.452, 0.648]" in table[2]


def test_suites_side_by_side_end_in_records_of_their_own(bench) -> None:
    """Without data every suite crashes, in a process of its own."""
    ended = list(running.run_all(["heart", "pacs"], bench, jobs=2))
    assert {record.suite for record in ended} == {"heart", "pacs"}
    assert all("No such file" in record.error for record in ended)
