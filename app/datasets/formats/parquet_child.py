"""Run as a process of its own: rewrites a hostile Parquet file as plain Arrow batches, or says why not.

Some broken files make the Parquet library end its process, and some make it allocate what they please; here neither
reaches the service. Imports next to nothing of the service, to start fast. Speaks JSON: limits in, outcome out.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from app.datasets.confinement import allow_cpu, confine
from app.datasets.formats.parquet_pages import BadPage, inflated_bytes

#: Rows and bytes of text of one batch of the result.
BATCH_ROWS, BATCH_BYTES = 1_024, 8 * 2**20
#: What is inflated is held at most twice, beside what the library takes for itself.
_COPIES, _SPARE_BYTES = 2, 2**30
_MAX_CPU_SECONDS = 600
_THRIFT_STRINGS, _THRIFT_ITEMS = 64 * 2**20, 2**20
_KEPT = (pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_string, pt.is_large_string, pt.is_null)
_WRITTEN_OUT = (pt.is_date, pt.is_timestamp, pt.is_decimal)


class Refusal(Exception):
    """Why the file is not read."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.outcome = {"code": code, "message": message, **more}


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pt.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(_plain(kind)) or pt.is_large_string(_plain(kind)))


def _open(path: Path, read_dictionary: list[str]) -> pq.ParquetFile:
    return pq.ParquetFile(
        path,
        read_dictionary=read_dictionary,
        pre_buffer=False,
        thrift_string_size_limit=_THRIFT_STRINGS,
        thrift_container_size_limit=_THRIFT_ITEMS,
    )


def _check_metadata(file: pq.ParquetFile, path: Path, limits: Mapping[str, Any]) -> None:
    metadata = file.metadata
    if metadata.num_rows > limits["max_examples"]:
        raise Refusal("too_many_examples", f"The file has more than {limits['max_examples']} rows.")
    # One more is room for the index that pandas leaves in the file.
    if metadata.num_columns > limits["max_columns"] + 1:
        raise Refusal("too_many_columns", f"The table has more than {limits['max_columns']} columns.")
    if metadata.num_columns != len(file.schema_arrow):
        raise Refusal("nested_column", "The table has nested columns.", hint="Use plain columns.")
    declared = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    _check_inflation(declared, path, limits)
    _check_inflation(inflated_bytes(path, metadata, limits["max_inflated_bytes"]), path, limits)


def _check_inflation(inflated: int, path: Path, limits: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if inflated > limits["max_inflated_bytes"]:
        raise Refusal("inflated_too_large", f"The file inflates to more than {limits['max_inflated_bytes']} bytes.")
    if inflated > limits["max_inflation_ratio"] * size:
        raise Refusal("inflation_ratio", f"The file inflates to {inflated / size:.0f} times its size.")


def _check_types(schema: pa.Schema) -> None:
    for field in schema:
        if not any(check(_plain(field.type)) for check in (*_KEPT, *_WRITTEN_OUT)):
            message = "A column holds neither numbers nor strings."
            raise Refusal("column_type", message, hint="Leave it out, or write it as strings.", column=field.name)


def _text_bytes(name: str, column: pa.Array, limits: Mapping[str, Any]) -> int:
    """Bytes of the strings of the column once none of them is shared."""
    if pt.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
    else:
        lengths = pc.binary_length(column)
    longest = pc.max(lengths).as_py() or 0
    if longest > 4 * limits["max_text_chars"]:
        message = f"A value has {longest} bytes, more than {limits['max_text_chars']} characters can have."
        raise Refusal("text_too_long", message, column=name)
    return int(pc.sum(lengths).as_py() or 0)


def _simplified(column: pa.Array) -> pa.Array:
    """The column without dictionary, and of a type that Python has an exact match for."""
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pt.is_timestamp(column.type):
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    if any(check(column.type) for check in _WRITTEN_OUT):
        return column.cast(pa.string())
    return column.cast(pa.float32()) if pt.is_float16(column.type) else column


def _checked(column: pa.Array, name: str, first_row: int) -> pa.Array:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for i in range(len(column)):
            try:
                column[i].as_py()
            except UnicodeDecodeError:
                raise Refusal("wrong_encoding", "A text is not UTF-8.", column=name, row=first_row + i) from None
        raise
    return column


def _check_text_bytes(file: pq.ParquetFile, texts: list[str], limits: Mapping[str, Any]) -> None:
    """Dictionary columns stay dictionaries until their true size is known: a few bytes can stand for a terabyte."""
    inflated = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=texts, use_threads=False):
        columns = zip(batch.schema.names, batch.columns, strict=True)
        inflated += sum(_text_bytes(name, column, limits) for name, column in columns if _is_text(column.type))
        if inflated > limits["max_inflated_bytes"]:
            raise Refusal("inflated_too_large", f"The texts inflate to more than {inflated} bytes.")


def _batches(file: pq.ParquetFile, kept: list[int], limits: Mapping[str, Any]) -> Iterator[list[pa.Array]]:
    """Columns of at most `BATCH_ROWS` rows and not many more than `BATCH_BYTES` bytes of text."""
    row = 1
    for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
        columns = [(batch.schema.names[i], batch.column(i)) for i in kept]
        size = sum(_text_bytes(name, column, limits) for name, column in columns if _is_text(column.type))
        step = max(1, batch.num_rows * BATCH_BYTES // max(size, BATCH_BYTES))
        for start in range(0, batch.num_rows, step):
            yield [_checked(_simplified(column.slice(start, step)), name, row) for name, column in columns]
            row += min(step, batch.num_rows - start)


def rewrite(path: Path, target: Path, limits: Mapping[str, Any]) -> list[str]:
    """Writes the columns of `path` to `target`, named by their position, and returns their names."""
    with _open(path, []) as file:
        _check_metadata(file, path, limits)
        schema = file.schema_arrow
    kept = [i for i, name in enumerate(schema.names) if not name.startswith("__index_level_")]
    if not kept:
        raise Refusal("no_input_column", "The table has no columns.")
    _check_types(pa.schema([schema.field(i) for i in kept]))
    texts = [field.name for field in schema if _is_text(field.type)]
    names = [str(i) for i in range(len(kept))]
    writer = None
    with _open(path, texts) as file, pa.OSFile(str(target), "wb") as sink:
        _check_text_bytes(file, texts, limits)
        for columns in _batches(file, kept, limits):
            batch = pa.RecordBatch.from_arrays(columns, names=names)
            writer = writer or pa.ipc.new_stream(sink, batch.schema)
            writer.write_batch(batch)
        (writer or pa.ipc.new_stream(sink, pa.schema([]))).close()
    return [schema.names[i] for i in kept]


def main() -> None:
    limits = json.load(sys.stdin)
    confine(_COPIES * limits["max_inflated_bytes"] + _SPARE_BYTES)
    allow_cpu(_MAX_CPU_SECONDS)
    path, target = map(Path, sys.argv[1:3])
    try:
        outcome: dict[str, Any] = {"columns": rewrite(path, target, limits)}
    except Refusal as refusal:
        outcome = refusal.outcome
    except (pa.ArrowException, OSError, UnicodeError, KeyError, MemoryError, BadPage) as error:
        first_line = str(error).partition("\n")[0][:200]
        outcome = {"code": "corrupt_parquet", "message": f"The Parquet file cannot be read: {first_line}"}
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    main()
