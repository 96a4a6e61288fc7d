"""The one form in which every dataset is stored: a Parquet file of `row`, `label` and the inputs, in upload order.

text: `input` (string). image: `input` (the image's bytes) and `entry` (its name in the upload). tabular: one column
`x:<name>` for each input, float64 (NaN where missing) or string (null where missing). `label` is a string for
classification and float64 for regression.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.schemas import Modality, Task

#: Names the definition of the content hash; it changes when the definition does.
_HASH_DOMAIN = b"metagraft-dataset-1"
_FLUSH_ROWS = 8_192
_FLUSH_BYTES = 32 * 2**20
_LENGTH = struct.Struct("<Q")
_MISSING = b"\xff" * 8
PREFIX = "x:"


def schema_of(modality: Modality, task: Task, kinds: Mapping[str, str]) -> pa.Schema:
    label = pa.string() if task == "classification" else pa.float64()
    fields = [pa.field("row", pa.int64()), pa.field("label", label)]
    if modality == "text":
        fields.append(pa.field("input", pa.string()))
    elif modality == "image":
        fields += [pa.field("input", pa.binary()), pa.field("entry", pa.string())]
    for name, kind in kinds.items():
        fields.append(pa.field(PREFIX + name, pa.float64() if kind == "numeric" else pa.string()))
    return pa.schema(fields)


def packed(values: Sequence[str | bytes | None]) -> bytes:
    """Strings or bytes as one unambiguous byte string: each after its length, or the mark of a missing one."""
    parts = []
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        parts.append(_MISSING if data is None else _LENGTH.pack(len(data)) + data)
    return b"".join(parts)


def packed_numbers(values: npt.ArrayLike) -> bytes:
    """Numbers as little-endian doubles; one NaN and one zero."""
    array = np.asarray(values, dtype="<f8") + 0.0
    array[np.isnan(array)] = np.nan
    return array.tobytes()


class CanonicalWriter:
    """Writes the canonical file piece by piece, and hashes its content independently of pieces and of Parquet."""

    def __init__(self, path: Path, modality: Modality, task: Task, kinds: Mapping[str, str]) -> None:
        self._schema = schema_of(modality, task, kinds)
        self._header = packed([_HASH_DOMAIN, modality, task, *(text for item in kinds.items() for text in item)])
        self._hashes = {name: hashlib.sha256() for name in self._schema.names if name not in {"row", "entry"}}
        self._writer = pq.ParquetWriter(path, self._schema, compression="none" if modality == "image" else "zstd")
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self.n_rows = 0

    def __enter__(self) -> "CanonicalWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def append(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Adds rows, given as the columns of the schema without `row`."""
        n_rows = len(columns["label"])
        for name, content in self._hashes.items():
            is_number = pa.types.is_float64(self._schema.field(name).type)
            content.update(packed_numbers(columns[name]) if is_number else packed(columns[name]))
        rows = range(self.n_rows + 1, self.n_rows + 1 + n_rows)
        table = pa.table({"row": pa.array(rows, pa.int64()), **columns}, schema=self._schema)
        self.n_rows += n_rows
        self._pending.append(table)
        self._pending_rows += n_rows
        self._pending_bytes += table.nbytes
        if self._pending_rows >= _FLUSH_ROWS or self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending, self._pending_bytes, self._pending_rows = [], 0, 0

    def finish(self) -> str:
        """Writes what is left and returns the content hash."""
        self._flush()
        content = hashlib.sha256(self._header + _LENGTH.pack(self.n_rows))
        for part in self._hashes.values():
            content.update(part.digest())
        return content.hexdigest()


def input_keys(columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, str]) -> list[str]:
    """sha256 (hex) of each row's input alone: equal for equal inputs, whatever dataset or row they are in."""
    if not kinds:
        return [
            hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()
            for value in columns["input"]
        ]
    names = sorted(kinds)
    numeric = [PREFIX + name for name in names if kinds[name] == "numeric"]
    texts = [columns[PREFIX + name] for name in names if kinds[name] != "numeric"]
    header = packed([text for name in names for text in (name, kinds[name])])
    n_rows = len(next(iter(columns.values())))
    flat = packed_numbers(np.array([columns[name] for name in numeric], dtype=float).T.ravel()) if numeric else b""
    width = 8 * len(numeric)
    return [
        hashlib.sha256(
            header + flat[row * width : (row + 1) * width] + packed([column[row] for column in texts])
        ).hexdigest()
        for row in range(n_rows)
    ]
