"""A stopping worker: no new jobs, and a deadline for the one that runs."""

import time


class Drain:
    """Off until `begin`, then on for good. Begun from a signal handler, read by threads: one assignment, no lock."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def begin(self, seconds: float) -> None:
        """Starts the clock; a second call does not extend it."""
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    @property
    def is_on(self) -> bool:
        return self._deadline is not None

    @property
    def is_over(self) -> bool:
        """Whether the running job has used up its time."""
        return self._deadline is not None and time.monotonic() >= self._deadline
