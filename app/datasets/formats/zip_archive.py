"""A zip archive read as untrusted bytes (PKWARE APPNOTE 6.3). Nothing is extracted: names never become paths.

Only what a plain archive needs is accepted: stored or deflated entries, one disk, no encryption, nothing before the
first entry, after the last or in two entries at once. Every size is checked against what is really there.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.datasets.findings import refuse
from app.datasets.formats.zip_names import check_name, unsafe
from app.settings import Settings

_CHUNK = 2**16
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
# An operating system may drop a file beside every example; folders come on top.
_ENTRIES_PER_EXAMPLE, _SPARE_ENTRIES = 2, 5_000
_BYTES_PER_ENTRY = 400


class _CorruptError(Exception):
    """The structure of the archive is damaged."""


class CorruptEntry(Exception):
    """The bytes of one entry cannot be had."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the archive. `start` is where its bytes begin."""

    name: str
    method: int
    crc: int
    packed_size: int
    size: int
    start: int


@dataclass(slots=True)
class _Header:
    """One record of the central directory."""

    raw_name: bytes
    name: str
    made_by: int
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    attributes: int
    offset: int


def read_entries(file: BinaryIO, settings: Settings) -> list[Entry]:
    """The files of the archive in the order of its directory; folders are left out.

    Raises:
        InvalidInput: it is damaged, unsafe, or beyond the limits of `settings` by its own account.
    """
    try:
        size = file.seek(0, 2)
        start, length, count = _find_directory(file, size)
        limit = settings.max_examples * _ENTRIES_PER_EXAMPLE + _SPARE_ENTRIES
        if count > limit or length > limit * _BYTES_PER_ENTRY:
            raise refuse("too_many_entries", f"The archive has more than {limit} entries.")
        file.seek(start)
        headers = list(_read_headers(file.read(length), count))
        for header in headers:
            _check_header(header)
        _check_sizes(headers, size, settings)
        entries = [_locate(file, header, start) for header in headers]
        _check_overlap(list(zip(headers, entries, strict=True)), start)
    except (_CorruptError, struct.error) as error:
        raise refuse("corrupt_archive", f"The zip archive is damaged: {error}.") from error
    return [entry for entry in entries if not entry.name.endswith("/")]


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(start, length, number of entries) of the central directory."""
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and at + _END.size <= len(tail):
        _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
        if at + _END.size + comment == len(tail):
            break
        at = tail.rfind(b"PK\5\6", 0, at)
    else:
        raise _CorruptError("its end record is missing, or something follows it")
    end = tail_start + at
    wide = _find_wide_directory(file, end)
    if wide is not None:
        start, length, count, end = wide
    elif disk or first_disk or here != count:
        raise _CorruptError("it spans several disks")
    if start + length != end:
        raise _CorruptError("something stands before, after or inside its directory")
    return start, length, count


def _find_wide_directory(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """The same with the position of the zip64 end record, where there is one."""
    if end < _END64_LOCATOR.size + _END64.size:
        return None
    locator_at = end - _END64_LOCATOR.size
    file.seek(locator_at)
    mark, disk, at, disks = _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))
    if mark != b"PK\6\7":
        return None
    if at != locator_at - _END64.size or disk or disks > 1:
        raise _CorruptError("its zip64 end record is misplaced")
    file.seek(at)
    mark, _, _, _, this_disk, first_disk, here, count, length, start = _END64.unpack(file.read(_END64.size))
    if mark != b"PK\6\6" or this_disk or first_disk or here != count:
        raise _CorruptError("its zip64 end record is wrong")
    return start, length, count, at


def _read_headers(directory: bytes, count: int) -> Iterator[_Header]:
    at = 0
    for _ in range(count):
        fields = _CENTRAL.unpack_from(directory, at)
        mark, made_by, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment = fields[:13]
        if mark != b"PK\1\2":
            raise _CorruptError("its directory is garbled")
        name_at = at + _CENTRAL.size
        extra_at = name_at + n_name
        at = extra_at + n_extra + n_comment
        raw_name = directory[name_at:extra_at]
        header = _Header(
            raw_name, _decode_name(raw_name, flags), made_by, flags, method, crc, packed, size, fields[15], fields[16]
        )
        _widen(header, directory[extra_at : extra_at + n_extra])
        yield header
    if at != len(directory):
        raise _CorruptError("it does not have as many entries as it says")


def _decode_name(raw: bytes, flags: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise _CorruptError(f"the entry name {raw[:60]!r} is not the UTF-8 it claims to be") from None
    return raw.decode("cp437")


def _widen(header: _Header, extra: bytes) -> None:
    """Takes the 64-bit sizes and offset from the zip64 extra field where the 32-bit ones are all ones."""
    wide = [name for name in ("size", "packed_size", "offset") if getattr(header, name) == 0xFFFFFFFF]
    at = 0
    while wide and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = struct.unpack_from(f"<{len(wide)}Q", extra[at + 4 : at + 4 + length])
            for name, value in zip(wide, values, strict=True):
                setattr(header, name, value)
            return
        at += 4 + length


def _check_header(header: _Header) -> None:
    check_name(header.name)
    kind = stat.S_IFMT(header.attributes >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        what = "symbolic link" if kind == stat.S_IFLNK else "special file"
        raise unsafe("not_a_file", header.name, f"is a {what}")
    if header.flags & _ENCRYPTED:
        raise unsafe("encrypted_entry", header.name, "is encrypted")
    if header.method not in {_STORED, _DEFLATED}:
        raise unsafe("compression_method", header.name, f"uses compression method {header.method}, not deflate")
    if header.method == _STORED and header.packed_size != header.size:
        raise unsafe("wrong_size", header.name, "is stored, yet its two sizes differ")
    if header.name.endswith("/") and header.size:
        raise unsafe("not_a_file", header.name, "is a folder with content")


def _check_sizes(headers: list[_Header], size: int, settings: Settings) -> None:
    total = sum(header.size for header in headers)
    largest = max(headers, key=lambda header: header.size, default=None)
    if largest is None:
        return
    if total > settings.max_inflated_bytes:
        message = f"helps the archive inflate to {total} bytes, more than {settings.max_inflated_bytes}"
        raise unsafe("inflated_too_large", largest.name, message)
    if total > settings.max_inflation_ratio * size:
        message = f"helps the archive inflate to {total / size:.0f} times its size"
        raise unsafe("inflation_ratio", largest.name, message)


def _locate(file: BinaryIO, header: _Header, directory_start: int) -> Entry:
    """The entry of a header, found through its local header, which must say the same."""
    if header.offset >= directory_start:  # perhaps further than any file goes
        raise _CorruptError(f"entry '{header.name[:100]}' is not where the directory says")
    file.seek(header.offset)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(b"PK\3\4"):
        raise _CorruptError(f"entry '{header.name[:100]}' is not where the directory says")
    _, _, flags, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack(local)
    if file.read(n_name) != header.raw_name or method != header.method or flags & _ENCRYPTED:
        raise unsafe("two_headers", header.name, "is described differently in its two headers")
    start = header.offset + _LOCAL.size + n_name + n_extra
    return Entry(header.name, header.method, header.crc, header.packed_size, header.size, start)


def _check_overlap(pairs: list[tuple[_Header, Entry]], directory_start: int) -> None:
    """No byte may belong to two entries: overlapping ones are how a small archive inflates without end."""
    end = 0
    for header, entry in sorted(pairs, key=lambda pair: pair[0].offset):
        if header.offset < end:
            raise unsafe("overlapping_entries", entry.name, "overlaps another entry")
        end = entry.start + entry.packed_size
    if end > directory_start:
        raise _CorruptError("an entry runs into the directory")


def inflate(file: BinaryIO, entry: Entry) -> bytes:
    """The entry's bytes, never more than its declared size.

    Raises:
        InvalidInput: it inflates to another size than declared.
        CorruptEntry: its bytes are damaged.
    """
    file.seek(entry.start)
    try:
        data = file.read(entry.size) if entry.method == _STORED else b"".join(_inflated(file, entry))
    except zlib.error as error:
        raise CorruptEntry(f"cannot be decompressed: {error}") from error
    if len(data) != entry.size:
        raise unsafe("wrong_size", entry.name, f"does not inflate to the {entry.size} bytes it declares")
    if zlib.crc32(data) != entry.crc:
        raise CorruptEntry("is damaged: its checksum is wrong")
    return data


def _inflated(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    unread, room = entry.packed_size, entry.size + 1
    while room > 0 and not stream.eof:
        packed = stream.unconsumed_tail or file.read(min(unread, _CHUNK))
        if not packed:
            return
        unread -= 0 if stream.unconsumed_tail else len(packed)
        data = stream.decompress(packed, room)
        room -= len(data)
        yield data
