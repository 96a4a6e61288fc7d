"""What must hold of the job tables whatever happened to the processes."""

from dataclasses import dataclass

from sqlalchemy import func, select

from app.db import Database
from app.jobs.lifecycle import TERMINAL
from app.tables import Job, JobEvent, Model, ModelVersion


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Counts of `jobs` and of what is wrong with them; all zero but `jobs` and `crashes` where nothing is."""

    jobs: int
    crashes: int
    lost: int
    """Jobs that did not succeed."""
    duplicated: int
    """Versions beyond one for a job."""
    mismatched: int
    """Jobs that succeeded without a version, or have one and did not."""
    gaps: int
    """Numbers that a model has not, up to its last one."""
    after_the_end: int
    """Events of a job that came after a terminal one."""
    event_gaps: int
    """Sequence numbers that a job's events lack."""

    @property
    def violations(self) -> int:
        return self.lost + self.inconsistent

    @property
    def inconsistent(self) -> int:
        """All that is wrong whatever the jobs were meant to end as."""
        return self.duplicated + self.mismatched + self.gaps + self.after_the_end + self.event_gaps


def is_idle(database: Database) -> bool:
    """Whether every job has ended."""
    with database.session(read_only=True) as session:
        return not session.scalar(select(func.count()).select_from(Job).where(Job.state.not_in(TERMINAL)))


def audit(database: Database) -> Ledger:
    with database.session(read_only=True) as session:
        jobs = session.execute(select(Job.id, Job.state, Job.crashes)).all()
        versions = session.execute(select(ModelVersion.model_id, ModelVersion.number, ModelVersion.job_id)).all()
        last_of = {model.id: model.last_number for model in session.scalars(select(Model))}
        events = session.execute(select(JobEvent.job_id, JobEvent.seq, JobEvent.type)).all()
    numbers = {(version.model_id, version.number) for version in versions}
    wanted = {(model_id, number) for model_id, last in last_of.items() for number in range(1, last + 1)}
    last_seq: dict[str, int] = {}
    end_seq: dict[str, int] = {}
    for event in events:
        last_seq[event.job_id] = max(last_seq.get(event.job_id, 0), event.seq)
        if event.type in TERMINAL:
            end_seq[event.job_id] = min(end_seq.get(event.job_id, event.seq), event.seq)
    return Ledger(
        jobs=len(jobs),
        crashes=sum(job.crashes for job in jobs),
        lost=sum(job.state != "succeeded" for job in jobs),
        duplicated=len(versions) - len({version.job_id for version in versions}),
        mismatched=len({job.id for job in jobs if job.state == "succeeded"} ^ {version.job_id for version in versions}),
        gaps=len(wanted ^ numbers),
        after_the_end=sum(event.seq > end_seq.get(event.job_id, event.seq) for event in events),
        event_gaps=sum(last_seq.values()) - len(events),
    )
