"""The one task. Imported by Celery's main process too, so it must stay light: no torch here."""

from celery import shared_task
from celery.signals import setup_logging, worker_process_init

from app.queue import RUN_JOB
from worker import process


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Celery configures no logging where this signal has a receiver."""


@worker_process_init.connect
def start(**_: object) -> None:
    process.start()


@shared_task(name=RUN_JOB)
def run_job(job_id: str) -> None:
    process.run(job_id)
