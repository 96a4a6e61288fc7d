"""What a backup says about itself: `manifest.json`, the last entry to be written and the first to be read.

manifest.json                   this
tables/<table>.jsonl            one row a line
blobs/<2 digits>/<sha256>       every blob that a row names
"""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.backups.errors import BackupError

FORMAT = 1
MANIFEST = "manifest.json"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Format(BaseModel):
    format: int


class TableEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: int = Field(ge=0)
    sha256: Sha256


class Manifest(BaseModel):
    """`schema_revision` is the migration that the rows fit; `blobs` are names and sizes in bytes."""

    model_config = ConfigDict(extra="forbid")

    format: int
    service_version: str
    schema_revision: str
    created_at: datetime
    tables: dict[str, TableEntry]
    blobs: dict[Sha256, int]

    @property
    def n_rows(self) -> int:
        return sum(entry.rows for entry in self.tables.values())


def table_path(name: str) -> str:
    return f"tables/{name}.jsonl"


def blob_path(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def parse(data: bytes) -> Manifest:
    """Raises `BackupError` where this is no manifest, or that of a format this version does not know."""
    try:
        told = _Format.model_validate_json(data)
        if told.format != FORMAT:
            raise BackupError(
                f"the backup has format {told.format}, this version knows {FORMAT}; restore it with the version of "
                "Metagraft that wrote it"
            )
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BackupError(f"{MANIFEST} is damaged ({error.error_count()} problems); use another backup") from None
