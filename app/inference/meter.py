"""How much each encoder of this process has encoded."""

import threading


class Meter:
    """Rows and seconds by encoder; safe for threads."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def add(self, encoder: str, rows: int, seconds: float) -> None:
        with self._lock:
            before_rows, before_seconds = self._totals.get(encoder, (0, 0.0))
            self._totals[encoder] = (before_rows + rows, before_seconds + seconds)

    def totals(self) -> dict[str, tuple[int, float]]:
        """Encoder to (rows, seconds) since the process started."""
        with self._lock:
            return dict(self._totals)
