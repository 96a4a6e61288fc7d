"""What a worker measures, and how it gets to /metrics: by the table `tallies`, once after each job."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app import tallies
from app.dependencies import Services
from app.tallies import Key
from learning.types import Progress

log = structlog.get_logger(__name__)

PUBLISH = "publish"
#: By the first word of a phase; whatever learns is `fit`.
_PARTS = {
    "loading": "load", "encoding": "encode", "training": "graft", "tuning": "graft",
    "scoring": "evaluate", "evaluating": "evaluate", "predicting": "predict",
}  # fmt: skip
_WHOLE = 1.0 - 1e-9


class Parts:
    """Seconds of one run, by part: each stretch between two calls of `progress` belongs to the phase it began with."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._part = "load"
        self._began = clock()

    def noting(self, progress: Progress) -> Progress:
        """`progress`, overheard."""

        def noted(fraction: float, phase: str) -> None:
            self._enter(fraction, phase)
            progress(fraction, phase)

        return noted

    def _enter(self, fraction: float, phase: str) -> None:
        self.close()
        # What is left to do when all is done is to store and publish it.
        self._part = PUBLISH if fraction >= _WHOLE else _PARTS.get(phase.partition(" ")[0], "fit")

    def close(self) -> None:
        """Counts the time up to now."""
        now = self._clock()
        self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._began
        self._began = now


class Measurements:
    """The counts of one worker process, of which only what came since the last job is added to the table."""

    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._engine = services.inference
        self._written: dict[Key, float] = {}

    def write(self, kind: str, outcome: str, parts: Parts) -> None:
        """Adds what the run measured. A database that is away costs these figures and nothing else."""
        parts.close()
        totals = self._totals()
        amounts = {key: total - self._written.get(key, 0.0) for key, total in totals.items()}
        amounts |= {Key(tallies.JOB_SECONDS, (kind, part)): seconds for part, seconds in parts.seconds.items()}
        amounts[Key(tallies.JOB_RUNS, (kind, outcome))] = 1
        try:
            with self._database.transaction() as session:
                tallies.add(session, {key: amount for key, amount in amounts.items() if amount > 0})
        except SQLAlchemyError as error:
            log.warning("measurements_not_written", reason=type(error).__name__)
            return
        self._written = totals

    def _totals(self) -> dict[Key, float]:
        """What this process counted since it started."""
        found: dict[Key, float] = {}
        caches = (("features", self._engine.features), ("learners", self._engine.serving.models))
        for name, cache in caches:
            found[Key(tallies.CACHE_LOOKUPS, ("worker", name, "hit"))] = cache.hits
            found[Key(tallies.CACHE_LOOKUPS, ("worker", name, "miss"))] = cache.misses
        for encoder, (rows, seconds) in self._engine.meter.totals().items():
            found[Key(tallies.ENCODER_ROWS, ("worker", encoder))] = rows
            found[Key(tallies.ENCODER_SECONDS, ("worker", encoder))] = seconds
        return found
