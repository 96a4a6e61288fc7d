"""Builders of files that mean harm. They are made here, in the test, and are kept nowhere."""

import base64
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from tests.app.files import parquet_of, png, two_classes, zip_of

LINK = 0o120777 << 16
"""The attributes of a symbolic link."""


@dataclass
class RawEntry:
    """An archive entry of which everything can be a lie."""

    name: bytes
    data: bytes = field(default_factory=png)
    method: int = 8
    flags: int = 0
    attributes: int = 0o100644 << 16
    size: int | None = None
    offset: int | None = None
    local_name: bytes | None = None

    def packed(self) -> bytes:
        if self.method != 8:
            return self.data
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        return stream.compress(self.data) + stream.flush()


def raw_zip(*entries: RawEntry, extra_count: int = 0) -> bytes:
    body, directory = BytesIO(), BytesIO()
    for entry in entries:
        packed, crc = entry.packed(), zlib.crc32(entry.data)
        size = len(entry.data) if entry.size is None else entry.size
        offset = body.tell() if entry.offset is None else entry.offset
        local_name = entry.name if entry.local_name is None else entry.local_name
        common = struct.pack("<4H3L", entry.flags, entry.method, 0, 0, crc, len(packed), size)
        body.write(b"PK\3\4" + struct.pack("<H", 20) + common + struct.pack("<2H", len(local_name), 0))
        body.write(local_name + packed)
        directory.write(b"PK\1\2" + struct.pack("<2H", 3 << 8 | 20, 20) + common)
        directory.write(struct.pack("<5H2L", len(entry.name), 0, 0, 0, 0, entry.attributes, offset) + entry.name)
    count = len(entries) + extra_count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, directory.tell(), body.tell(), 0)
    return body.getvalue() + directory.getvalue() + end


def named(name: bytes, flags: int = 0) -> bytes:
    """An archive with one honest image and one whose name is `name`."""
    return raw_zip(RawEntry(b"cat/1.png"), RawEntry(name, flags=flags))


def overlapping() -> bytes:
    """Two entries that share the bytes of one, as in archives that inflate without end."""
    first = RawEntry(b"cat/1.png")
    return raw_zip(first, RawEntry(b"cat/1.png", offset=0))


def quoted() -> bytes:
    """An entry whose bytes hold another entry's local header."""
    inner = raw_zip(RawEntry(b"dog/1.png"))
    outer = RawEntry(b"cat/1.png", data=inner, method=0)
    return raw_zip(outer, RawEntry(b"dog/1.png", offset=30 + len(b"cat/1.png")))


def zeros_packed(size: int) -> bytes:
    """`size` zeros deflated: one deflated block, which refers to nothing before it, again and again."""
    block = bytes(2**24)
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = stream.compress(block) + stream.flush(zlib.Z_FULL_FLUSH)
    return once * (size // len(block)) + stream.flush()


def bomb(size: int, declared: int | None = None) -> bytes:
    """An archive of one entry of `size` zeros, which says that it has `declared`."""
    packed, crc = zeros_packed(size), 0  # no reader should come as far as the checksum
    said = size if declared is None else declared
    wide = struct.pack("<2H3Q", 1, 24, said, len(packed), 0)
    name = b"cat/1.png"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 8, 0, 0, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 0)
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 8, 0, 0, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(wide), 0, 0, 0, 0,
        0xFFFFFFFF,
    )  # fmt: skip
    body = local + name + packed
    directory = central + name + wide
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(body), 0)
    return body + directory + end


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    header = _chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def parquet_with_shared_text() -> bytes:
    """A few kilobytes in which a dictionary of one text stands for gigabytes of rows."""
    dictionary = pa.array([random.Random(i).randbytes(175_000).hex() for i in range(2)])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 50_000, pa.int8()), dictionary)
    buffer = BytesIO()
    pq.write_table(pa.table({"text": column, "label": ["a", "b"] * 50_000}), buffer, compression="zstd")
    return buffer.getvalue()


def parquet_of_zeros() -> bytes:
    """Plain pages that deflate to nearly nothing."""
    buffer = BytesIO()
    table = pa.table({"x": pa.array([b"\0" * 90_000] * 2_000).cast(pa.string()), "label": ["a", "b"] * 1_000})
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False)
    return buffer.getvalue()


def parquet_that_lies() -> bytes:
    """The same with a footer that declares small pages: the sizes in it are overwritten."""
    honest = parquet_of_zeros()
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
ABORTING_PARQUET = base64.b64decode(
    "UEFSMRUAFRwVHCwVAhUAFQYVBhwYCAEAAAAAAAAAGAgBAAAAAAAAABYAKAgBAAAAAAAAABgIAQAAAAAAAAAREQAAAAIAAAACAQEAAAAAAAAA"
    "FQAVFhUWLBUCFQAVBhUGHDYAKAF4GAF4EREAAAACAAAAAgEBAAAAeBUEGTw1ABgGc2NoZW1hFQQAFQQpAhgBYQAVDCUCGAVsYWJlbCUATBwA"
    "AAAWAhkcGSwmABwVBBklBgAZGAFhFQAWAhaaARaaASYIPBgIAQAAAAAAAAAYCAEAAAAAAAAAFgAoCAEAAAAAAAAAGAgBAAAAAAAAABERABkc"
    "FQAVABUCADwpBhkmAAIAAAAmABwVDBklBgAZGAVsYWJlbBUAFgIWUBZQJqIBPDYAKAF4GAF4EREAGRwVABUAFQIAPBYCGQYZJgACAAAAFuoB"
    "FgImCBbqAQAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4xGSwcAAAcAAAA/gAAAFBBUjE="
)


@dataclass(frozen=True)
class Attack:
    """`make` gives the file; the answer must be `status` with the problem `code`, or an item of it with that code."""

    name: str
    make: Callable[[], bytes]
    code: str
    filename: str = "data.zip"
    status: int = 422


def _images(**replaced: bytes) -> Callable[[], bytes]:
    return lambda: zip_of(two_classes(1) | {name.replace("__", "/") + ".png": data for name, data in replaced.items()})


def parquet_with_garbage() -> bytes:
    honest = parquet_of({"a": [1], "label": ["x"]})
    return honest[:4] + b"\xff" * 20 + honest[24:]


ATTACKS = (
    Attack("parent folder", lambda: named(b"../../etc/cron.d/x.png"), "path_traversal"),
    Attack("parent folder inside", lambda: named(b"cat/../../x.png"), "path_traversal"),
    Attack("absolute path", lambda: named(b"/etc/x.png"), "path_traversal"),
    Attack("drive letter", lambda: named(b"C:/x/x.png"), "path_traversal"),
    Attack("backslashes", lambda: named(b"..\\..\\x.png"), "entry_name"),
    Attack("percent encoding", lambda: named(b"%2e%2e/x.png"), "path_traversal"),
    Attack("fullwidth dots", lambda: named("\uff0e\uff0e/x.png".encode(), 0x800), "path_traversal"),
    Attack("overlong dots", lambda: named(b"\xc0\xae\xc0\xae/x.png", 0x800), "corrupt_archive"),
    Attack("NUL in a name", lambda: named(b"cat/x.png\0.txt"), "entry_name"),
    Attack("empty part", lambda: named(b"cat//x.png"), "entry_name"),
    Attack("symbolic link", lambda: raw_zip(RawEntry(b"cat/1", b"/etc/passwd", attributes=LINK)), "not_a_file"),
    Attack("device", lambda: raw_zip(RawEntry(b"cat/1.png", b"", attributes=0o020666 << 16)), "not_a_file"),
    Attack("encrypted", lambda: raw_zip(RawEntry(b"cat/1.png", flags=1)), "encrypted_entry"),
    Attack("unknown compression", lambda: raw_zip(RawEntry(b"cat/1.png", method=12)), "compression_method"),
    Attack("shared bytes", overlapping, "overlapping_entries"),
    Attack("entry in an entry", quoted, "overlapping_entries"),
    Attack("two names", lambda: raw_zip(RawEntry(b"cat/1.png", local_name=b"../1.png.")), "two_headers"),
    Attack("declares too little", lambda: bomb(2**26, declared=100), "wrong_size"),
    Attack("declares too much", lambda: raw_zip(RawEntry(b"cat/1.png", size=10_000)), "wrong_size"),
    Attack("10 GB of zeros", lambda: bomb(10 * 2**30), "inflated_too_large"),
    Attack("ratio", lambda: bomb(2**30), "inflation_ratio"),
    Attack("more entries than there are", lambda: raw_zip(RawEntry(b"cat/1.png"), extra_count=3), "corrupt_archive"),
    Attack("something before it", lambda: b"PK\3\4#!/bin/sh\n" + zip_of(two_classes()), "corrupt_archive"),
    Attack("something after it", lambda: zip_of(two_classes()) + b"x" * 30, "corrupt_archive"),
    Attack("cut off", lambda: zip_of(two_classes())[:-40], "corrupt_archive"),
    Attack("no images", lambda: zip_of({"cat/": b""}), "empty_archive"),
    Attack("archive in the archive", _images(cat__9=zip_of(two_classes())), "not_an_image"),
    Attack("pixel bomb", _images(cat__9=png_header(50_000, 50_000)), "too_many_pixels"),
    Attack("quieter pixel bomb", _images(cat__9=png_header(9_000, 9_000)), "too_many_pixels"),
    Attack("half an image", _images(cat__9=png(side=300)[:-200]), "damaged_image"),
    Attack("script for an image", _images(cat__9=b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run"), "not_an_image"),
    Attack("workbook", lambda: zip_of({"[Content_Types].xml": b"<x/>", "a/b.xml": b""}), "unsupported_format"),
    Attack("dictionary bomb", parquet_with_shared_text, "inflated_too_large", "data.parquet"),
    Attack("page bomb", parquet_of_zeros, "inflation_ratio", "data.parquet"),
    Attack("page bomb that lies", parquet_that_lies, "inflation_ratio", "data.parquet"),
    Attack("footer garbage", lambda: b"PAR1" + b"\xff" * 100 + b"\x40\0\0\0PAR1", "corrupt_parquet", "data.parquet"),
    Attack("aborting file", lambda: ABORTING_PARQUET, "corrupt_parquet", "data.parquet"),
    Attack("page garbage", parquet_with_garbage, "corrupt_parquet", "data.parquet"),
    Attack("one endless line", lambda: b"text,label\n" + b"x" * 200_000_000, "record_too_long", "data.csv"),
    Attack("one endless quote", lambda: b'text,label\n"' + b"x\n" * 10_000_000, "record_too_long", "data.csv"),
    Attack("one endless object", lambda: b'{"text": "' + b"x" * 20_000_000, "record_too_long", "data.jsonl"),
    Attack("endless header", lambda: b"x," * 10_000_000, "record_too_long", "data.csv"),
    Attack("100,000 columns", lambda: b",".join(b"c%d" % i for i in range(100_000)), "too_many_columns", "data.csv"),
    Attack("100,000 keys", lambda: b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}", "too_many_columns"),
    Attack("deep nesting", lambda: b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "bad_json", "data.jsonl"),
    Attack("UTF-16", lambda: "text,label\nhello,a\n".encode("utf-16"), "wrong_encoding", "data.csv"),
    Attack("Latin-1", lambda: b"text,label\nhello there,a\ncaf\xe9 au lait,b\n", "wrong_encoding", "data.csv"),
    Attack("NUL in a text", lambda: b"text,label\na\0b c d,x\ne f g,y\n", "bad_characters", "data.csv"),
    Attack("NUL in a label", lambda: b'{"text":"a b c","label":"x\\u0000"}\n', "bad_characters", "data.jsonl"),
    Attack("NUL in a column name", lambda: b"te\0xt,label\na b c,x\n", "bad_column_name", "data.csv"),
    Attack("half a surrogate pair", lambda: b'{"text":"a \\ud800","label":"x"}\n', "bad_characters", "data.jsonl"),
    Attack("half a pair in a key", lambda: b'{"t\\udfff":"a","label":"x"}\n', "bad_column_name", "data.jsonl"),
    Attack("half a pair in a label", lambda: b'{"text":"a","label":"\\udc00"}\n', "bad_characters", "data.jsonl"),
    Attack("many digits", lambda: b"a,label\n" + b"9" * 5_000 + b",x\n1,y\n", "number_out_of_range", "data.csv"),
    Attack("empty file", lambda: b"", "empty_file", "data.csv"),
    Attack("blank file", lambda: b"\n\r\n  \n", "empty_file", "data.csv"),
    Attack("header only", lambda: b"text,label\n", "no_rows", "data.csv"),
    Attack("JSON array", lambda: b'[{"text": "a"}]', "json_array", "data.json"),
    Attack("gzip", lambda: b"\x1f\x8b\x08\0" + b"x" * 50, "unsupported_format", "data.csv.gz", 415),
    Attack("random bytes", lambda: bytes(range(256)) * 50, "bad_column_name", "data.bin"),
)  # fmt: skip
