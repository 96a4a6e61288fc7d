"""Counts that outlive the process that counted: rows of the table `tallies`, which only grow.

A worker has no port to be asked at, and its processes come and go. It adds what it measured here after each job.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.tables import Tally

JOB_RUNS = "job_runs"
JOB_SECONDS = "job_seconds"
LEASE_LOSSES = "lease_losses"
CACHE_LOOKUPS = "cache_lookups"
ENCODER_ROWS = "encoder_rows"
ENCODER_SECONDS = "encoder_seconds"

#: Name: what is counted, and its labels. Every label has few values, all of them ours.
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    JOB_RUNS: ("Runs of jobs that ended, by how", ("kind", "outcome")),
    JOB_SECONDS: ("Time that runs of jobs took, by part", ("kind", "part")),
    LEASE_LOSSES: ("Running jobs taken from a worker that fell silent", ("kind",)),
    CACHE_LOOKUPS: ("Cache look-ups", ("process", "cache", "outcome")),
    ENCODER_ROWS: ("Rows encoded", ("process", "encoder")),
    ENCODER_SECONDS: ("Time spent encoding", ("process", "encoder")),
}

_SEPARATOR = "\n"


class Key(NamedTuple):
    """One count: a name of `FAMILIES` and a value for each of its labels."""

    name: str
    labels: tuple[str, ...]


def add(session: Session, amounts: Mapping[Key, float]) -> None:
    """Adds to the counts, in the caller's transaction; what does not exist begins at 0."""
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    for key in sorted(amounts):  # always in one order, so that two writers never wait for each other
        row = insert(Tally).values(name=key.name, labels=_SEPARATOR.join(key.labels), value=amounts[key])
        added = {"value": Tally.value + row.excluded["value"]}
        session.execute(row.on_conflict_do_update(index_elements=[Tally.name, Tally.labels], set_=added))


def read(session: Session) -> dict[Key, float]:
    """Every count there is, of the families that this version knows."""
    rows = session.scalars(select(Tally))
    found = {Key(row.name, tuple(row.labels.split(_SEPARATOR))): row.value for row in rows}
    return {key: value for key, value in found.items() if _is_known(key)}


def _is_known(key: Key) -> bool:
    return key.name in FAMILIES and len(key.labels) == len(FAMILIES[key.name][1])
