import math
import sys

import pytest

from benchmarks.learning.results import Goal
from benchmarks.serving import __main__ as command
from benchmarks.serving import results
from benchmarks.serving.bench import Sample
from benchmarks.serving.intervals import median, percentile, ratios
from benchmarks.serving.load import Load
from benchmarks.serving.results import Section, Table, goal


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0


def test_median_lies_between_order_statistics_that_reach_95_percent() -> None:
    found = median([float(number) for number in range(1, 16)])
    assert (found.value, found.low, found.high) == (8.0, 4.0, 12.0)
    # 1 - 2 P(Binomial(15, 1/2) <= 3)
    assert found.confidence == pytest.approx(0.9648, abs=1e-4)


def test_median_takes_smallest_and_largest_when_values_are_few() -> None:
    found = median([3.0, 1.0, 2.0])
    assert (found.value, found.low, found.high, found.confidence) == (2.0, 1.0, 3.0, 0.75)
    assert median([4.0]).confidence == 0.0


def test_median_of_an_even_number_is_the_middle_of_two() -> None:
    assert median([1.0, 2.0, 3.0, 10.0]).value == 2.5


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.01234, "0.012"), (12.34, "12.3"), (98765.4, "98,765")])
def test_figure_shows_three_digits_that_count(value, text) -> None:
    assert results.figure(value) == text


def test_goal_is_decided_by_the_median() -> None:
    found = goal("ratio", [1.2, 0.8, 0.9], 1.0, "times", at_most=True)
    assert (found.value, found.reached, found.interval, found.required) == (0.9, True, (0.8, 1.2), "at most 1 times")
    assert not goal("ratio", [1.2, 0.8, 0.9], 1.0, "times", at_most=False).reached


def test_goal_is_not_reached_when_there_is_nothing_to_compare_with() -> None:
    found = goal("ratio", [], 1.0, "", at_most=True)
    assert math.isnan(found.value)
    assert not found.reached


def section(*goals: Goal, error: str = "") -> Section:
    table = Table(title="Text:", head=("system", "requests/s"), lines=[["Metagraft", "10"]])
    return Section(name="part", protocol="So.", tables=[table], goals=goals, notes=["a | note"], error=error)


def test_markdown_says_what_was_reached_and_what_was_not() -> None:
    part = section(goal("fast", [2.0], 1, "s", at_most=True), goal("more", [2.0], 1, "", at_most=False))
    text = results.markdown([part], "make bench-serving")
    assert "| part | fast    | at most 1 s | 2.00     | not reached |" in text
    assert "| part | more    | at least 1  | 2.00     | reached     |" in text
    assert "`make bench-serving`" in text
    assert "### part\nSo.\n\nText:\n\n| system" in text


def test_part_that_failed_is_in_the_table_and_is_not_reached() -> None:
    part = section(error="Traceback\nRuntimeError: no such luck")
    assert "RuntimeError: no such luck | failed" in results.goals_table([part])
    assert not results.all_reached([part])
    assert results.all_reached([section(goal("fast", [1.0], 1, "s", at_most=True))])


def test_section_is_kept_as_json(tmp_path) -> None:
    results.write(section(), tmp_path)
    assert '"machine"' in (tmp_path / "part.json").read_text()


def test_cells_of_a_load_are_medians_over_repeats() -> None:
    loads = [
        Load(requests=n, wrong=0, complaint="", seconds=1.0, own_cpu_seconds=0.0, latencies_ms=[1.0, 2.0])
        for n in (10, 30, 20)
    ]
    cells = results.load_cells([Sample(load=load, cpu_ms=3.0) for load in loads])
    assert cells[0] == "20.0 [10.0, 30.0]"
    assert len(cells) == len(results.LOAD_HEAD)


def test_part_that_crashes_is_reported_with_its_traceback(monkeypatch) -> None:
    def crash(_bench: object) -> Section:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(command.PARTS, "crash", crash)
    found = command.carried_out("crash", None)  # type: ignore[arg-type]
    assert "RuntimeError: no such luck" in found.error
    assert found.seconds >= 0


def test_unknown_part_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nothing"])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown part nothing" in capsys.readouterr().err
