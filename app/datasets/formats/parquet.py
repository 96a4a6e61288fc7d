"""Parquet with flat columns of numbers, strings, booleans or dates. A child process reads it, see `parquet_child`."""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.datasets.cells import Cell, unstorable
from app.datasets.children import Children, cannot_start, command, environment
from app.datasets.findings import Findings, refuse
from app.datasets.rows import Batch, check_columns
from app.errors import ErrorItem, InvalidInput
from app.settings import Settings

_TIMEOUT_SECONDS = 900
_LIMITS = ("max_examples", "max_columns", "max_text_chars", "max_inflated_bytes", "max_inflation_ratio")


class ParquetTable:
    """A Parquet file as a `TableReader`. Its plain copy lies beside it, in the upload's own folder."""

    def __init__(self, path: Path, settings: Settings, children: Children) -> None:
        self._copy = path.with_name(path.name + ".arrow")
        with children.place():
            names = _rewrite(path, self._copy, settings)
        self.columns = check_columns(names, settings)

    def batches(self, findings: Findings) -> Iterator[Batch]:  # noqa: ARG002 - bad rows were found while rewriting
        row = 1
        with pa.memory_map(str(self._copy)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                yield Batch(range(row, row + batch.num_rows), [_cells(column) for column in batch.columns])
                row += batch.num_rows


def _rewrite(path: Path, target: Path, settings: Settings) -> list[str]:
    """The names of the columns, which now lie in `target`."""
    limits = settings.model_dump(include=set(_LIMITS))
    arguments = command("app.datasets.formats.parquet_child", path, target)
    try:
        child = subprocess.run(  # noqa: S603 - no part of the command comes from a client
            arguments, input=json.dumps(limits).encode(), capture_output=True, timeout=_TIMEOUT_SECONDS, check=False,
            env=environment(ARROW_DEFAULT_MEMORY_POOL="system"),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise refuse("parquet_too_slow", "The Parquet file takes too long to read.") from None
    except OSError:
        raise cannot_start() from None
    if child.returncode != 0:
        raise refuse("corrupt_parquet", "The Parquet file cannot be read: it is damaged or needs too much memory.")
    return _names(json.loads(child.stdout))


def _names(outcome: dict[str, Any]) -> list[str]:
    if "columns" in outcome:
        return list(outcome["columns"])
    item = ErrorItem(**outcome)
    if item.column is not None and unstorable(item.column):
        item.column = None
    raise InvalidInput(item.message, code=item.code, errors=[item])


def _cells(column: pa.Array) -> list[Cell]:
    return [_cell(value) for value in column.to_pylist()]


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    return str(value)
