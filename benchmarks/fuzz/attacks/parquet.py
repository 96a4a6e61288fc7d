"""Parquet files that inflate without measure, lie about their pages, or hold what no table of plain values holds."""

import base64
import random
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz.attacks.building import parquet_of
from benchmarks.fuzz.attacks.cases import Attack, Make

_NAME = "data.parquet"
_LABELS = ["a", "b"]


def shared_text() -> bytes:
    """A few kilobytes in which a dictionary of two texts stands for gigabytes of rows."""
    dictionary = pa.array([random.Random(i).randbytes(175_000).hex() for i in range(2)])  # noqa: S311
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 50_000, pa.int8()), dictionary)
    return parquet_of({"text": column, "label": _LABELS * 50_000}, compression="zstd")


def zeros() -> bytes:
    """Plain pages that deflate to nearly nothing: 9,000 times smaller."""
    table = {"x": pa.array([b"\0" * 90_000] * 2_000).cast(pa.string()), "label": _LABELS * 1_000}
    return parquet_of(table, compression="zstd", use_dictionary=False)


def lying_zeros() -> bytes:
    """The same with a footer that declares small pages: the sizes in it are overwritten."""
    honest = zeros()
    metadata = pq.read_metadata(BytesIO(honest))
    length = struct.unpack("<L", honest[-8:-4])[0]
    footer = honest[-8 - length : -8]
    for column in range(2):
        footer = _replace_varint(footer, metadata.row_group(0).column(column).total_uncompressed_size)
    footer = _replace_varint(footer, metadata.row_group(0).total_byte_size)
    return honest[: -8 - length] + footer + honest[-8:]


def _replace_varint(footer: bytes, value: int) -> bytes:
    """`footer` with the zigzag varint of `value` replaced by one of the same length that says 1."""
    zigzag, encoded = value << 1, bytearray()
    while True:
        encoded.append(zigzag & 0x7F | (0x80 if zigzag > 0x7F else 0))
        zigzag >>= 7
        if not zigzag:
            break
    small = b"\x82" + b"\x80" * (len(encoded) - 2) + b"\x00" if len(encoded) > 1 else b"\x02"
    return footer.replace(bytes(encoded), small)


#: One byte of the footer of a table of one row is wrong, and the library that reads it aborts its process.
ABORTING = base64.b64decode(
    "UEFSMRUAFRwVHCwVAhUAFQYVBhwYCAEAAAAAAAAAGAgBAAAAAAAAABYAKAgBAAAAAAAAABgIAQAAAAAAAAAREQAAAAIAAAACAQEAAAAAAAAA"
    "FQAVFhUWLBUCFQAVBhUGHDYAKAF4GAF4EREAAAACAAAAAgEBAAAAeBUEGTw1ABgGc2NoZW1hFQQAFQQpAhgBYQAVDCUCGAVsYWJlbCUATBwA"
    "AAAWAhkcGSwmABwVBBklBgAZGAFhFQAWAhaaARaaASYIPBgIAQAAAAAAAAAYCAEAAAAAAAAAFgAoCAEAAAAAAAAAGAgBAAAAAAAAABERABkc"
    "FQAVABUCADwpBhkmAAIAAAAmABwVDBklBgAZGAVsYWJlbBUAFgIWUBZQJqIBPDYAKAF4GAF4EREAGRwVABUAFQIAPBYCGQYZJgACAAAAFuoB"
    "FgImCBbqAQAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4xGSwcAAAcAAAA/gAAAFBBUjE="
)


def _honest(**options: Any) -> bytes:
    return parquet_of(
        {"x": list(range(200)), "text": [f"text {i}" for i in range(200)], "label": _LABELS * 100}, **options
    )


def _garbage_page(compression: str) -> bytes:
    """The header of the first page is overwritten."""
    honest = _honest(compression=compression)
    return honest[:4] + b"\xff" * 20 + honest[24:]


def _footer(length: int) -> bytes:
    """An honest file that says its footer has this length."""
    return _honest()[:-8] + struct.pack("<L", length) + b"PAR1"


def _whole(title: str, code: str, make: Make, *, column: str | None = None, is_heavy: bool = False) -> Attack:
    return Attack(f"Parquet: {title}", make, code, _NAME, column=column, is_heavy=is_heavy)


def _kind(title: str, values: Sequence[Any], kind: pa.DataType, code: str = "column_type") -> Attack:
    """A column of a type that is not read."""
    make = partial(_of_kind, values, kind)
    return _whole(f"a column of {title}", code, make, column="odd" if code == "column_type" else None)


def _of_kind(values: Sequence[Any], kind: pa.DataType) -> bytes:
    return parquet_of({"odd": pa.array(values, kind), "label": _LABELS})


def _cell(title: str, code: str, row: int, column: str, columns: Mapping[str, Any]) -> Attack:
    return Attack(f"Parquet: {title}", lambda: parquet_of(columns), code, _NAME, row=row, column=column)


def _not_utf8() -> bytes:
    texts = pa.array([b"one", b"\xff"])
    return parquet_of({"text": pa.Array.from_buffers(pa.string(), 2, texts.buffers()), "label": _LABELS})


SIZES = (
    _whole("dictionary of two texts for gigabytes", "inflated_too_large", shared_text),
    _whole("pages that inflate 9,000 times", "inflation_ratio", zeros, is_heavy=True),
    _whole("pages that inflate 9,000 times and lie", "inflation_ratio", lying_zeros),
    _whole("200,001 rows", "too_many_examples",
           lambda: parquet_of({"x": pa.nulls(200_001), "label": pa.nulls(200_001)})),
    _whole("2,002 columns", "too_many_columns", lambda: parquet_of({f"c{i}": [1] for i in range(2_002)}),
           is_heavy=True),
    _whole("20,000 columns", "too_many_columns", lambda: parquet_of({f"c{i}": [1] for i in range(20_000)}),
           is_heavy=True),
    _whole("a text beyond 400,000 bytes", "text_too_long",
           lambda: parquet_of({"text": ["x" * 400_001, "y"], "label": _LABELS}, compression="none"), column="text"),
    Attack("Parquet: a text of 100,001 letters",
           lambda: parquet_of({"text": ["one two", "x" * 100_001], "label": _LABELS}, compression="none"),
           "text_too_long", _NAME, row=2, column="text"),
)  # fmt: skip

DAMAGE = (
    _whole("garbage for a footer", "corrupt_parquet", lambda: b"PAR1" + b"\xff" * 100 + b"\x40\0\0\0PAR1"),
    _whole("zeros for a footer", "corrupt_parquet", lambda: b"PAR1" + bytes(100) + b"\x40\0\0\0PAR1"),
    _whole("footer that ends its reader", "corrupt_parquet", lambda: ABORTING),
    _whole("mark alone", "corrupt_parquet", lambda: b"PAR1"),
    _whole("two marks alone", "corrupt_parquet", lambda: b"PAR1PAR1"),
    _whole("footer of no length", "corrupt_parquet", lambda: _footer(0)),
    _whole("footer of one byte", "corrupt_parquet", lambda: _footer(1)),
    _whole("footer longer than the file", "corrupt_parquet", lambda: _footer(10**6)),
    _whole("footer of all that 32 bits can", "corrupt_parquet", lambda: _footer(2**32 - 1)),
    _whole("encrypted footer", "corrupt_parquet", lambda: _honest()[:-4] + b"PARE"),
    _whole("cut in half", "corrupt_parquet", lambda: (whole := _honest())[: len(whole) // 2]),
    _whole("without its last byte", "corrupt_parquet", lambda: _honest()[:-1]),
    _whole("with a byte after its end", "corrupt_parquet", lambda: _honest() + b"x"),
    _whole("a table for its inside", "corrupt_parquet", lambda: b"PAR1\ntext,label\na b c,x\n"),
    *(
        _whole(f"garbage for a page of {codec}", "corrupt_parquet", partial(_garbage_page, codec))
        for codec in ("none", "snappy", "gzip", "zstd", "brotli", "lz4")
    ),
)

KINDS = (
    _kind("lists", [[1], [2]], pa.list_(pa.int64())),
    _kind("lists of texts", [["a"], ["b"]], pa.list_(pa.string())),
    _kind("objects", [{"a": 1, "b": 2}] * 2, pa.struct({"a": pa.int64(), "b": pa.int64()}), "nested_column"),
    _kind("objects of one", [{"a": 1}] * 2, pa.struct({"a": pa.int64()})),
    _kind("maps", [[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64()), "nested_column"),
    _kind("bytes", [b"\xff", b"\0"], pa.binary()),
    _kind("bytes of one length", [b"ab", b"cd"], pa.binary(2)),
    _kind("times of the day", [1, 2], pa.time64("us")),
    _kind("durations", [1, 2], pa.duration("us")),
    _whole("no columns", "no_input_column", lambda: parquet_of({"__index_level_0__": [0, 1]})),
    _whole("one column", "no_input_column", lambda: parquet_of({"label": _LABELS})),
    _whole("no rows", "no_rows", lambda: parquet_of({"x": pa.nulls(0), "label": pa.nulls(0)})),
    _whole("no name for a column", "unnamed_column", lambda: parquet_of({"": [1, 2], "label": _LABELS})),
    _whole("NUL in a column name", "bad_column_name", lambda: parquet_of({"a\0b": [1, 2], "label": _LABELS})),
    _whole("a column name of 501 letters", "column_name_too_long",
           lambda: parquet_of({"c" * 501: [1, 2], "label": _LABELS})),
    _whole("columns that differ in blanks", "repeated_column",
           lambda: parquet_of({"a": [1, 2], " a": [1, 2], "label": _LABELS}), column="a"),
)  # fmt: skip

CELLS = (
    Attack("Parquet: a text that is no UTF-8", _not_utf8, "wrong_encoding", _NAME, row=2, column="text"),
    _cell("NUL in a text", "bad_characters", 2, "text", {"text": ["one two", "a\0b"], "label": _LABELS}),
    _cell("NUL in a label", "bad_characters", 1, "label", {"x": [1, 2], "label": ["\0", "b"]}),
    _cell("infinity", "number_out_of_range", 2, "x", {"x": [1.0, float("-inf")], "label": _LABELS}),
    _cell("null for a label", "empty_label", 2, "label", {"x": [1, 2], "label": ["a", None]}),
    _cell("nulls for all labels", "empty_label", 1, "label", {"x": [1, 2], "label": pa.nulls(2)}),
    _cell("NaN for a label", "empty_label", 2, "label", {"x": [1, 2], "label": [0.5, float("nan")]}),
    _cell("null for a text", "empty_text", 2, "text", {"text": ["one two three", None], "label": _LABELS}),
    _cell("a label of 501 letters", "label_too_long", 2, "label", {"x": [1, 2], "label": ["a", "b" * 501]}),
)

ATTACKS = (*SIZES, *DAMAGE, *KINDS, *CELLS)
