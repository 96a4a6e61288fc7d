"""The Celery application and the wake-up hint. The job row is the queue of record; a lost hint only costs time."""

from typing import Any

import structlog
from celery import Celery
from kombu import Queue

from app.settings import QUEUES, Settings

log = structlog.get_logger(__name__)

RUN_JOB = "metagraft.run_job"
QUEUE_OF_KIND = {"adapt": "adapt", "batch_predict": "adapt", "meta_train": "train"}


def make_celery(settings: Settings) -> Celery:
    """Celery configured for hints: early acknowledgement, no results, JSON, arguments are ids (docs/adr/0003)."""
    celery = Celery("metagraft", broker=settings.resolved_broker_url)
    celery.conf.update(
        task_queues=[Queue(name) for name in QUEUES],
        task_default_queue="adapt",
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": 7 * 24 * 3600,
            "health_check_interval": 10,
            "socket_connect_timeout": 1,
            "socket_timeout": 10,
        },
    )
    return celery


class HintSender:
    """Tells the workers of a queue that a row is waiting."""

    def __init__(self, settings: Settings) -> None:
        self._celery = make_celery(settings)
        # A client waits while its hint leaves, so a broker that is away must not hold it up.
        patience = {"socket_timeout": 2, "max_retries": 1, "interval_start": 0, "interval_step": 0}
        self._celery.conf.broker_transport_options = self._celery.conf.broker_transport_options | patience

    def send(self, job_id: str, queue: str) -> bool:
        """Whether the hint left. A broker that is away is no error: the sweeper sends hints again."""
        try:
            self._celery.send_task(RUN_JOB, args=[job_id], queue=queue, retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001 - the job is committed, so nothing here may fail its request
            log.warning("hint_not_sent", job_id=job_id, reason=str(error))
            return False
        return True

    def waiting(self, queue: str) -> int:
        """Hints that no worker has taken yet. Raises where the broker cannot be reached."""
        with self._celery.connection_for_write() as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(queue).message_count)

    def check(self) -> None:
        """Raises where the broker cannot be reached."""
        with self._celery.connection_for_write() as connection:
            # By default two seconds pass before the second try, and nobody is ready until then.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def close(self) -> None:
        self._celery.close()
