"""What /metrics reads at the moment of asking: the database, the caches and encoders of this process, its connections.

Workers listen on no port. What they measure is added to the table `tallies` (app/tallies.py), so every API process
tells the same numbers of them: take `max` over replicas, not `sum`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app import tallies
from app.connections import Connections
from app.db import utc_now
from app.dependencies import Services
from app.settings import QUEUES
from app.tables import Job

if TYPE_CHECKING:  # importing them loads torch
    from app.inference.features import FeatureCache
    from app.inference.model_cache import ModelCache
    from app.inference.recent import RecentFeatures
    from app.inference.serving import Serving

STATES = ("queued", "running", "succeeded", "failed", "cancelled")

log = structlog.get_logger(__name__)


class State(Collector):
    """Collected anew for each request of /metrics."""

    def __init__(self, services: Services, connections: Connections) -> None:
        self._services = services
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        yield from _connection_metrics(self._connections)
        yield from _serving_metrics(self._services.inference.serving)
        counted: dict[tallies.Key, float] = _own(self._services)
        try:
            yield from _job_metrics(self._services)
            with self._services.database.session(read_only=True) as session:
                counted |= tallies.read(session)
        except SQLAlchemyError as error:
            log.warning("job_metrics_unavailable", reason=str(error))
        yield from _tally_metrics(counted)


def _connection_metrics(connections: Connections) -> Iterator[Metric]:
    yield GaugeMetricFamily("metagraft_connections", "Open connections of this process", value=len(connections))
    yield GaugeMetricFamily("metagraft_connections_limit", "Most of them at once", value=connections.limit)
    refused = CounterMetricFamily(
        "metagraft_connections_refused", "Connections ended before a request was read whole", labels=["reason"]
    )
    for reason, count in connections.refused.copy().items():
        refused.add_metric([reason], count)
    yield refused


def _serving_metrics(serving: "Serving") -> Iterator[Metric]:
    models = serving.models
    yield GaugeMetricFamily("metagraft_models_loaded", "Adapted models kept loaded", value=len(models))
    yield GaugeMetricFamily("metagraft_models_loaded_bytes", "Memory that they take", value=models.bytes)
    waiting = GaugeMetricFamily("metagraft_waiting_inputs", "Inputs that wait for an encoder", labels=["encoder"])
    batches = CounterMetricFamily("metagraft_batches", "Batches encoded", labels=["encoder"])
    inputs = CounterMetricFamily("metagraft_batch_inputs", "Inputs in them", labels=["encoder"])
    for encoder, batcher in serving.batchers.copy().items():
        waiting.add_metric([encoder], batcher.n_waiting)
        batches.add_metric([encoder], batcher.batches)
        inputs.add_metric([encoder], batcher.rows)
    yield from (waiting, batches, inputs)


def _own(services: Services) -> dict[tallies.Key, float]:
    """This process's own counts, under the keys that those of workers have."""
    engine = services.inference
    found: dict[tallies.Key, float] = {}
    caches: dict[str, FeatureCache | ModelCache | RecentFeatures] = {
        "features": engine.features,
        "learners": engine.serving.models,
        "recent": engine.serving.recent,
    }
    for name, cache in caches.items():
        for outcome, count in (("hit", cache.hits), ("miss", cache.misses)):
            found[tallies.Key(tallies.CACHE_LOOKUPS, ("api", name, outcome))] = count
    for encoder, (rows, seconds) in engine.meter.totals().items():
        found[tallies.Key(tallies.ENCODER_ROWS, ("api", encoder))] = rows
        found[tallies.Key(tallies.ENCODER_SECONDS, ("api", encoder))] = seconds
    return found


def _tally_metrics(counted: dict[tallies.Key, float]) -> Iterator[Metric]:
    for name, (description, labels) in tallies.FAMILIES.items():
        family = CounterMetricFamily(f"metagraft_{name}", description, labels=labels)
        for key, value in sorted(counted.items()):
            if key.name == name:
                family.add_metric(list(key.labels), value)
        yield family


def _job_metrics(services: Services) -> Iterator[Metric]:
    with services.database.session(read_only=True) as session:
        rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
        counts = {row[0]: row[1] for row in rows}
        waiting = select(Job.queue, func.min(Job.created_at)).where(Job.state == "queued").group_by(Job.queue)
        oldest = {row[0]: row[1] for row in session.execute(waiting)}
    jobs = GaugeMetricFamily("metagraft_jobs", "Jobs by state", labels=["state"])
    for state in STATES:
        jobs.add_metric([state], counts.get(state, 0))
    yield jobs
    now = utc_now()
    ages = {queue: max(0.0, (now - oldest[queue]).total_seconds()) if queue in oldest else 0.0 for queue in QUEUES}
    yield GaugeMetricFamily("metagraft_queue_age_seconds", "Age of the oldest queued job", value=max(ages.values()))
    by_queue = GaugeMetricFamily("metagraft_queue_oldest_seconds", "The same, for each queue", labels=["queue"])
    for queue, age in ages.items():
        by_queue.add_metric([queue], age)
    yield by_queue
