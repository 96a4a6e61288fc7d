"""Rows as lines of JSON that mean the same on every database, and back."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, DateTime, Table, select

from app.backups.errors import BackupError
from app.blobs import BLOB_COLUMNS, BLOB_KEYS

#: Turns of live processes, what they remember and notes of garbage collection mean nothing elsewhere.
TRANSIENT = {"leases", "blob_marks", "generations"}
_BATCH = 500


def lines(connection: Connection, table: Table) -> Iterator[bytes]:
    """Every row of the table, in the order of its key, one line each."""
    names = [column.name for column in table.columns]
    rows = connection.execution_options(yield_per=_BATCH).execute(select(table).order_by(*table.primary_key))
    for row in rows:
        values = {name: _written(value) for name, value in zip(names, row, strict=True)}
        yield json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def parsed(data: Iterable[bytes], entry: str) -> Iterator[dict[str, Any]]:
    """Raises `BackupError` naming the line that is none."""
    for number, line in enumerate(data, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BackupError(f"line {number} of {entry} is damaged; use another backup")
        yield row


def insert(connection: Connection, table: Table, rows: Iterable[dict[str, Any]], entry: str) -> int:
    """Inserts what `parsed` gives, and says how many rows that were. `table` may be of an older schema, as reflected.

    Raises:
        BackupError: a row has other columns than the table.
    """
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True  # None is SQL NULL, as everywhere
    done = 0
    batch: list[dict[str, Any]] = []
    for row in rows:
        if row.keys() != set(table.columns.keys()):
            raise BackupError(f"row {done + len(batch) + 1} of {entry} has other columns than its table")
        batch.append({name: _read(table.columns[name], value) for name, value in row.items()})
        if len(batch) == _BATCH:
            connection.execute(table.insert(), batch)
            done, batch = done + len(batch), []
    if batch:
        connection.execute(table.insert(), batch)
    return done + len(batch)


def named_blobs(table: str, row: dict[str, Any]) -> Iterator[str]:
    """The blobs that a row of the table names."""
    for column in BLOB_COLUMNS:
        if column.table.name == table and row.get(column.key) is not None:
            yield str(row[column.key])
    for column, key in BLOB_KEYS:
        document = row.get(column.key) if column.table.name == table else None
        if isinstance(document, dict) and document.get(key) is not None:
            yield str(document[key])


def _written(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _read(column: Column[Any], value: Any) -> Any:
    if value is None or not isinstance(column.type, DateTime):
        return value
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BackupError(f"{value!r:.60} is no time, in the column {column.name}; use another backup") from None
