"""How often progress is written, and how long the rest will take."""

import math
import time
from collections import deque
from dataclasses import dataclass

WRITE_SECONDS = 0.25
#: A write is also an event when the phase changed or this much was done since the last one.
EVENT_STEP = 0.02
WINDOW_SECONDS = 30.0
SHORTEST_BASIS_SECONDS = 0.5
MAX_PHASE = 100


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is to be written."""

    progress: float
    phase: str
    eta_seconds: float | None
    has_event: bool


class Pace:
    """Thins out one job's progress calls. Progress never goes back."""

    def __init__(self) -> None:
        self._progress = 0.0
        self._phase = ""
        self._written_at = -math.inf
        self._written: tuple[float, str] = (-1.0, "")
        self._event: tuple[float, str] = (-1.0, "")
        self._recent: deque[tuple[float, float]] = deque()

    def step(self, fraction: float, phase: str) -> Step | None:
        """What to write now: at most a few steps a second, and none where nothing advanced."""
        now = time.monotonic()
        if math.isfinite(fraction):
            self._progress = max(self._progress, min(max(fraction, 0.0), 1.0))
        phase = phase[:MAX_PHASE]
        is_new_phase = phase != self._phase
        self._phase = phase
        if now - self._written_at < WRITE_SECONDS and not is_new_phase:
            return None
        if (self._progress, phase) == self._written:
            return None
        self._written_at, self._written = now, (self._progress, phase)
        return Step(progress=self._progress, phase=phase, eta_seconds=self._eta(now), has_event=self._has_event())

    def _has_event(self) -> bool:
        progress, phase = self._event
        if phase == self._phase and self._progress - progress < EVENT_STEP:
            return False
        self._event = self._progress, self._phase
        return True

    def _eta(self, now: float) -> float | None:
        """Seconds that are left at the recent rate."""
        self._recent.append((now, self._progress))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        began, done = self._recent[0]
        gained, seconds = self._progress - done, now - began
        if gained <= 0 or seconds < SHORTEST_BASIS_SECONDS:
            return None
        return round((1.0 - self._progress) * seconds / gained, 1)
