import math

import pytest

from worker import pace
from worker.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that only moves when told to."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_steps_are_thinned_out_when_they_come_fast(clock):
    steps = Pace()
    written = 0
    for number in range(1000):
        clock.now += 0.001
        written += steps.step(number / 1000, "fitting") is not None
    assert 3 <= written <= 5


def test_step_is_written_at_once_when_the_phase_changes(clock):
    steps = Pace()
    steps.step(0.1, "encoding")
    step = steps.step(0.1, "fitting")
    assert step is not None
    assert (step.phase, step.has_event) == ("fitting", True)


def test_step_is_not_written_when_nothing_advanced(clock):
    steps = Pace()
    steps.step(0.5, "fitting")
    clock.now += 60
    assert steps.step(0.5, "fitting") is None


def test_progress_never_goes_back_when_a_fraction_does(clock):
    steps = Pace()
    steps.step(0.5, "encoding")
    step = steps.step(0.1, "fitting")
    assert step is not None
    assert step.progress == 0.5


@pytest.mark.parametrize(("fraction", "expected"), [(-1, 0.0), (7, 1.0), (math.nan, 0.0), (math.inf, 0.0)])
def test_progress_stays_between_zero_and_one_when_a_fraction_does_not(clock, fraction: float, expected: float):
    step = Pace().step(fraction, "fitting")
    assert step is not None
    assert step.progress == expected


def test_event_is_due_when_enough_was_done_since_the_last(clock):
    steps = Pace()
    events = []
    for number in range(101):
        clock.now += 1
        step = steps.step(number / 1024, "fitting")
        events.append(step is not None and step.has_event)
    assert [number for number, is_event in enumerate(events) if is_event] == [0, 21, 42, 63, 84]


def test_eta_follows_the_recent_rate_when_it_changes(clock):
    steps = Pace()
    for number in range(1, 11):
        clock.now += 10
        steps.step(number / 100, "fitting")
    for number in range(11, 61):
        clock.now += 1
        step = steps.step(number / 100, "fitting")
    assert step is not None
    assert step.eta_seconds == pytest.approx(40, abs=1)


def test_eta_is_unknown_when_nothing_was_measured_yet(clock):
    step = Pace().step(0.3, "fitting")
    assert step is not None
    assert step.eta_seconds is None
