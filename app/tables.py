"""Every table of the service. The rows of `jobs` are the queue of record (docs/adr/0002)."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db import UtcDateTime, utc_now

# none_as_null: None is SQL NULL, never the JSON text "null".
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Id = String(40)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: Json, list[Any]: Json, datetime: UtcDateTime()}  # noqa: RUF012


class Project(Base):
    """Owner of all data. With no key configured everything belongs to the project `default`."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """This and the other quotas: null is the service's own limit, 0 none (app/projects/quotas.py)."""
    quota_rows: Mapped[int | None] = mapped_column(BigInteger)
    quota_jobs: Mapped[int | None] = mapped_column(BigInteger)
    quota_models: Mapped[int | None] = mapped_column(BigInteger)


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Dataset(Base):
    """An uploaded few-shot or source dataset; its rows lie in storage as one canonical Parquet file."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project_id", "content_hash"), Index(None, "project_id", "created_at"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    modality: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(16))
    domain: Mapped[str] = mapped_column(String(200))
    n_examples: Mapped[int]
    classes: Mapped[dict[str, Any]]
    columns: Mapped[dict[str, Any]]
    """Tabular only: column name to "numeric" or "categorical"."""
    content_hash: Mapped[str] = mapped_column(String(64))
    blob: Mapped[str] = mapped_column(String(64))
    """sha256 of the canonical Parquet file in storage."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    warnings: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Job(Base):
    """One unit of long work, and its place in the queue."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "created_at"),
        Index("ix_jobs_queued", "queue", "created_at", sqlite_where=text("state = 'queued'"),
              postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_running", "lease_until", sqlite_where=text("state = 'running'"),
              postgresql_where=text("state = 'running'")),
    )  # fmt: skip
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    """The validated request, with every reference resolved to an id."""
    state: Mapped[str] = mapped_column(String(16), default="queued")
    phase: Mapped[str] = mapped_column(String(100), default="queued")
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    eta_seconds: Mapped[float | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """Runs that began and were not lost: what the client sees. Errors count toward max_attempts."""
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(40))
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    advanced_at: Mapped[float | None]
    hinted_at: Mapped[float | None]
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    last_event: Mapped[int] = mapped_column(Integer, default=0)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    """One transition or progress step; `seq` counts from 1 without gaps within a job."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class JobPart(Base):
    """Rows of a job that is shared among workers (app/jobs/parts.py); gone once the job has ended."""

    __tablename__ = "job_parts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    first_row: Mapped[int] = mapped_column(Integer)
    n_rows: Mapped[int] = mapped_column(Integer)
    rows_done: Mapped[int] = mapped_column(Integer, default=0)
    errors: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(40))
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None]
    """A helper's; the worker that runs the job has the job's lease."""
    is_suspect: Mapped[bool] = mapped_column(Boolean, default=False)
    """Whether a helper failed at it: then only the worker that runs the job takes it."""
    blob: Mapped[str | None] = mapped_column(String(64))
    """sha256 of its lines in storage, once it is done."""


class MetaLearner(Base):
    __tablename__ = "meta_learners"
    __table_args__ = (Index(None, "project_id", "created_at"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    modality: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(16))
    encoder: Mapped[str] = mapped_column(String(200))
    sources: Mapped[list[Any]]
    card: Mapped[dict[str, Any]]
    artifact: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Model(Base):
    """A name that versions accumulate under."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    modality: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(16))
    last_number: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "number"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset: Mapped[str] = mapped_column(Id)
    strategy: Mapped[str] = mapped_column(String(32))
    encoder: Mapped[str] = mapped_column(String(200))
    report: Mapped[dict[str, Any]]
    lineage: Mapped[dict[str, Any]]
    artifact: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelAlias(Base):
    __tablename__ = "model_aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int]
    revision: Mapped[int] = mapped_column(Integer, default=1)
    """Counts every move; the ETag."""
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class AliasMove(Base):
    """History of an alias. `number` is null where the alias was deleted."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index(None, "model_id", "alias"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    alias: Mapped[str] = mapped_column(String(100))
    number: Mapped[int | None]
    previous: Mapped[int | None]
    reason: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Feedback(Base):
    __tablename__ = "feedback"
    __table_args__ = (Index(None, "model_id", "created_at"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    input: Mapped[dict[str, Any]]
    """{"text": …}, {"columns": {…}} or {"image": base64}."""
    label: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    """Null while the first request is in flight."""
    body: Mapped[dict[str, Any] | None]
    headers: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Lease(Base):
    """A named turn that one process at a time holds (the sweeper's)."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(40))
    until: Mapped[float] = mapped_column(Float, default=0.0)


class BlobMark(Base):
    """A blob that garbage collection found no row to name, and when it first did (the database's clock)."""

    __tablename__ = "blob_marks"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    marked_at: Mapped[float] = mapped_column(Float)


class Tally(Base):
    """A count that outlives the process that counted (app/tallies.py); it only grows."""

    __tablename__ = "tallies"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(400), primary_key=True)
    """The values of its labels, one a line."""
    value: Mapped[float] = mapped_column(Float)


class Generation(Base):
    """A number that grows with every change of what processes remember (app/changes.py)."""

    __tablename__ = "generations"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
