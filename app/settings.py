"""One class of settings, read from METAGRAFT_* variables in the roots (cli, api and worker) and passed down."""

import hashlib
import tempfile
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.loopback import is_loopback

#: The kernel takes no longer path for a unix socket (sun_path, less a little).
MAX_SOCKET_PATH = 100

#: Seconds, and minutes: a long meta-training never blocks an adaptation.
QUEUES = ("adapt", "train")


def _names(text: str) -> list[str]:
    """The comma-separated names in `text`, in lower case."""
    return [name.strip().lower() for name in text.split(",") if name.strip()]


class Settings(BaseSettings):
    """Everything that can be configured. Sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(env_prefix="METAGRAFT_", frozen=True)

    data_dir: Path = Field(Path(".metagraft"), description="Folder of everything the embedded mode keeps")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite under DATA_DIR")
    broker_url: str = Field("", description="Redis or Valkey URL; empty: an embedded Valkey under DATA_DIR")
    storage_url: str = Field("", description="Folder or s3://bucket/prefix; empty: DATA_DIR/storage")
    host: str = Field("127.0.0.1", description="Address the API binds to; beyond loopback a key must exist")
    port: int = Field(8000, ge=0, le=65535)
    device: str = Field("cpu", description="torch device of the encoders: cpu, cuda, cuda:1, ... or auto")
    trusted_hosts: str = Field("", description="Names clients may reach it by, with commas; *.example.com, *: any")
    cors_origins: str = Field("", description="Origins whose web pages may use it, with commas; empty: none")
    log_level: str = Field("INFO")
    torch_threads: int = Field(0, ge=0, description="Threads of one torch process; 0: torch decides")

    warm_up: bool = Field(True, description="Load the built-in encoders when a process starts")

    max_upload_bytes: int = Field(512 * 2**20, gt=0, description="Largest request body of an upload")
    max_request_bytes: int = Field(
        32 * 2**20, gt=0, description="Largest body of inputs for a model; others have 1 MiB"
    )
    max_inflated_bytes: int = Field(2 * 2**30, gt=0, description="Most bytes one upload may inflate to")
    max_inflation_ratio: float = Field(200.0, gt=1, description="Most an archive or Parquet file may inflate")
    max_examples: int = Field(200_000, gt=0, description="Most examples of one dataset")
    max_columns: int = Field(2_000, gt=0)
    max_classes: int = Field(1_000, gt=1)
    max_text_chars: int = Field(100_000, gt=0)
    max_image_bytes: int = Field(20 * 2**20, gt=0)
    max_image_pixels: int = Field(50_000_000, gt=0)
    max_connections: int = Field(1_000, ge=1, description="Connections one API process holds at once")
    max_head_bytes: int = Field(64 * 2**10, ge=1024, description="Largest request line and headers together")
    head_seconds: float = Field(15.0, gt=0, description="Time a client has for the head of a request")
    body_seconds: float = Field(30.0, gt=0, description="Time it has for the body, and 1 s more for every KiB it sent")
    send_seconds: float = Field(60.0, gt=0, description="A client that takes in no answer this long is cut off")
    keep_alive_seconds: int = Field(75, ge=1, description="How long a connection may wait for its next request")
    max_predict_inputs: int = Field(1_000, gt=0, description="Most inputs of one predict call")
    image_seconds: int = Field(20, gt=0, description="Most computing that decoding one uploaded image may take")
    upload_processes: int = Field(4, ge=1, description="Child processes of one API that read uploads at once")
    upload_wait_seconds: float = Field(
        30.0, ge=0, description="Wait of an upload, or an export, for its turn before 503"
    )

    feature_cache_bytes: int = Field(4 * 2**30, ge=0, description="Most disk the cache of encoded features takes")
    learner_cache_bytes: int = Field(512 * 2**20, ge=0, description="Most bytes of adapted models kept loaded")
    recent_features_bytes: int = Field(
        64 * 2**20, ge=0, description="Most memory for features of inputs that were asked about before"
    )
    batch_size: int = Field(32, ge=1, description="Most texts or images encoded at once")
    serving_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Matrix products of text encoders when predicting; bf16 needs a CPU or GPU made for it"
    )
    queue_limit: int = Field(2_000, ge=1, description="Texts or images that may wait for an encoder before 503")
    deadline_seconds: float = Field(60.0, gt=0, description="Longest a prediction may take before 504")
    extra_encoders: str = Field("", description="Encoders clients may name besides the built-in: hf:…, timm:…")

    lease_seconds: float = Field(30.0, gt=0, description="A running job whose worker is silent this long is requeued")
    heartbeat_seconds: float = Field(5.0, gt=0)
    stall_seconds: float = Field(900.0, gt=0, description="A running job that does not advance this long fails")
    cancel_grace_seconds: float = Field(10.0, ge=0, description="After this a cancelled job's process is killed")
    sweep_seconds: float = Field(5.0, gt=0, description="How often lost leases and stale queued rows are looked for")
    rehint_seconds: float = Field(15.0, gt=0, description="A row queued this long gets its wake-up message again")
    batch_predict_part_rows: int = Field(5_000, ge=1, description="Larger batch predictions are shared by workers")
    max_attempts: int = Field(3, ge=1, description="Runs of one job that may end in a retryable error")
    max_crashes: int = Field(12, ge=1, description="Leases one job may lose before it fails with worker_crashed")
    worker_concurrency: int = Field(1, ge=1, description="Processes of one worker")
    worker_queues: str = Field("adapt,train", description="Queues that one worker takes jobs from")
    drain_seconds: float = Field(20.0, ge=0, description="Time a stopping worker gives its running job")

    pool_size: int = Field(
        10, ge=1, description="Database connections that one process keeps; up to 40 while it is busy"
    )
    pool_timeout: float = Field(3.0, gt=0, description="Wait for a database connection before 503")

    requests_per_minute: int = Field(0, ge=0, description="Most requests a minute of one key; 0: no limit")
    quota_bytes: int = Field(0, ge=0, description="Most bytes one project stores; 0: no limit")
    quota_rows: int = Field(0, ge=0, description="Most rows of one project's datasets and feedback; 0: no limit")
    quota_jobs: int = Field(0, ge=0, description="Most jobs of one project that wait or run; 0: no limit")
    quota_models: int = Field(0, ge=0, description="Most models of one project; 0: no limit")
    metrics_token: str = Field(
        "", repr=False, pattern=r"^([\x21-\x7e]{16,})?$", description="Bearer token of /metrics beside admin keys"
    )

    s3_endpoint: str = Field("", description="Endpoint of an S3-compatible store; empty: AWS")
    s3_region: str = Field("us-east-1")
    s3_access_key_id: str = Field("", description="Empty: the ambient AWS credentials")
    s3_secret_access_key: str = Field("", repr=False)
    idempotency_hours: float = Field(24.0, gt=0, description="How long an Idempotency-Key is remembered")

    @field_validator("worker_queues")
    @classmethod
    def _known_queues(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names or set(names) - set(QUEUES):
            raise ValueError(f"METAGRAFT_WORKER_QUEUES must name some of {', '.join(QUEUES)}")
        return ",".join(dict.fromkeys(names))

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("METAGRAFT_LEASE_SECONDS must be at least twice METAGRAFT_HEARTBEAT_SECONDS")
        return self

    @property
    def queues(self) -> list[str]:
        return self.worker_queues.split(",")

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'metagraft.db'}"

    @property
    def resolved_storage_url(self) -> str:
        return self.storage_url or str(self.data_dir / "storage")

    @property
    def valkey_socket(self) -> Path:
        path = self.data_dir / "valkey" / "valkey.sock"
        if len(str(path)) <= MAX_SOCKET_PATH:
            return path
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"metagraft-{digest}.sock"

    @property
    def resolved_broker_url(self) -> str:
        return self.broker_url or f"redis+socket://{self.valkey_socket}"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"

    @property
    def trusted_host_patterns(self) -> list[str]:
        return _names(self.trusted_hosts)

    @property
    def cors_origin_list(self) -> list[str]:
        return _names(self.cors_origins)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)
