"""Builders of files: honest ones, and archives of which everything can be a lie."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LINK = 0o120777
REGULAR = 0o100644
_ALL_ONES = 0xFFFFFFFF


def png(colour: tuple[int, int, int] = (200, 30, 30), side: int = 40) -> bytes:
    return saved(Image.new("RGB", (side, side), colour), "PNG")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def zip_of(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A plain archive. Its times are fixed, so that the same entries are the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return buffer.getvalue()


def two_classes(n: int = 3) -> dict[str, bytes]:
    """Entries of an archive with `n` different images in each of two classes."""
    cats = {f"cat/{i}.png": png((200, i, 0)) for i in range(n)}
    return cats | {f"dog/{i}.png": png((0, i, 200)) for i in range(n)}


def parquet_of(columns: Mapping[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, **options)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


@dataclass
class RawEntry:
    """An archive entry; what is None is told truly. Numbers beyond 32 bits go into a zip64 field."""

    name: bytes
    data: bytes = field(default_factory=png)
    method: int = 8
    flags: int = 0
    mode: int = REGULAR
    size: int | None = None
    packed_size: int | None = None
    offset: int | None = None
    crc: int | None = None
    packed: bytes | None = None
    """The bytes that stand in the archive."""
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    extra: bytes = b""
    """Of the directory, instead of what would belong there."""

    def stored(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.data) if self.method == 8 else self.data


def _or(value: int | None, truth: int) -> int:
    return truth if value is None else value


@dataclass
class _Written:
    """What both headers of an entry say."""

    entry: RawEntry
    size: int
    packed_size: int
    offset: int
    crc: int

    def local(self) -> bytes:
        entry, name = self.entry, self.entry.name if self.entry.local_name is None else self.entry.local_name
        flags, method = _or(entry.local_flags, entry.flags), _or(entry.local_method, entry.method)
        sizes = (min(self.packed_size, _ALL_ONES), min(self.size, _ALL_ONES))
        return struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, self.crc, *sizes, len(name), 0) + name

    def central(self) -> bytes:
        entry = self.entry
        values = (self.size, self.packed_size, self.offset)
        wide = [value for value in values if value >= _ALL_ONES]
        extra = entry.extra
        if wide and not extra:
            extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide)
        size, packed_size, offset = (min(value, _ALL_ONES) for value in values)
        head = struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 3 << 8 | 20, 20, entry.flags, entry.method, 0, 0, self.crc, packed_size, size,
            len(entry.name), len(extra), 0, 0, 0, entry.mode << 16, offset,
        )  # fmt: skip
        return head + entry.name + extra


def raw_zip(*entries: RawEntry, extra_count: int = 0, comment: bytes = b"", disk: int = 0) -> bytes:
    """An archive of these entries whose end record counts `extra_count` more of them."""
    body, directory = BytesIO(), BytesIO()
    for entry in entries:
        packed = entry.stored()
        written = _Written(
            entry=entry,
            size=_or(entry.size, len(entry.data)),
            packed_size=_or(entry.packed_size, len(packed)),
            offset=_or(entry.offset, body.tell()),
            crc=_or(entry.crc, zlib.crc32(entry.data)),
        )
        body.write(written.local() + packed)
        directory.write(written.central())
    count = len(entries) + extra_count
    end = end_record(count, directory.tell(), body.tell(), comment=comment, disk=disk)
    return body.getvalue() + directory.getvalue() + end


def end_record(count: int, length: int, start: int, *, comment: bytes = b"", disk: int = 0) -> bytes:
    head = struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, count, count, length, start, len(comment))
    return head + comment


def wide_end(count: int, length: int, start: int, *, at: int | None = None) -> bytes:
    """The end of an archive in its zip64 form; `at` is where its locator says that it stands."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + length if at is None else at, 1)
    return record + locator + end_record(0xFFFF, _ALL_ONES, _ALL_ONES)


def zeros_packed(size: int) -> bytes:
    """`size` zeros deflated: one deflated block, which refers to nothing before it, again and again."""
    block = bytes(2**24)
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = stream.compress(block) + stream.flush(zlib.Z_FULL_FLUSH)
    return once * (size // len(block)) + stream.flush()


def bomb(size: int, declared: int | None = None) -> bytes:
    """An archive of one entry of `size` zeros, which says that it has `declared`; nobody should get to its checksum."""
    return raw_zip(RawEntry(b"cat/1.png", b"", packed=zeros_packed(size), size=_or(declared, size), crc=0))
