"""What the pages of a Parquet file say about their size, read from their headers without inflating one.

The footer's totals may lie; the reader allocates what a page's own header says. The headers are Thrift structs in the
compact protocol (parquet-format, `PageHeader`): a field is a byte (id step << 4 | type), integers are zigzag varints.
"""

from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq

_WINDOW = 2**16
_MAX_DEPTH = 8
_I32, _I64, _BINARY, _LIST, _SET, _MAP, _STRUCT = 5, 6, 8, 9, 10, 11, 12
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}  # true, false, a byte, a double


class BadPage(Exception):
    """A page header that cannot be read."""


class _Compact:
    """A cursor over the bytes of one header."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise BadPage("a page header is cut off or too long")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise BadPage("a number in a page header is too long")

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self, depth: int = 0) -> dict[int, int]:
        """The integer fields of the struct under the cursor; everything else is skipped."""
        if depth > _MAX_DEPTH:
            raise BadPage("a page header is nested too deeply")
        found: dict[int, int] = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            kind = head & 0xF
            if kind in {4, _I32, _I64}:
                found[field] = self.signed()
            else:
                self._skip(kind, depth)
        return found

    def _skip(self, kind: int, depth: int) -> None:
        if kind == _STRUCT:
            self.fields(depth + 1)
        elif kind in {4, _I32, _I64}:
            self.signed()
        elif kind == _BINARY:
            length = self.varint()
            self.at += length
        elif kind in _FIXED:
            self.at += _FIXED[kind]
        elif kind in {_LIST, _SET}:
            head = self.byte()
            for _ in range(self.varint() if head >> 4 == 15 else head >> 4):
                self._skip(3 if head & 0xF in {1, 2} else head & 0xF, depth + 1)
        else:
            raise BadPage(f"a page header has a field of type {kind}")


def inflated_bytes(path: Path, metadata: pq.FileMetaData, limit: int) -> int:
    """Bytes that all pages together inflate to by their own headers; stops counting beyond `limit`.

    Raises:
        BadPage: the pages of a column do not fill the place that the footer gives it.
    """
    total = 0
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for column in range(row_group.num_columns):
                total += _chunk_bytes(file, row_group.column(column), size, limit - total)
                if total > limit:
                    return total
    return total


def _chunk_bytes(file: BinaryIO, chunk: pq.ColumnChunkMetaData, file_size: int, limit: int) -> int:
    if chunk.num_values == 0 and chunk.data_page_offset == 0:
        return 0  # so writers say that there is no page; the file's first bytes are none to any reader
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    at = min(starts)
    end = at + chunk.total_compressed_size
    if not 4 <= at <= end <= file_size:
        raise BadPage("a column lies outside of the file")
    total = 0
    while at < end and total <= limit:
        file.seek(at)
        header = _Compact(file.read(min(_WINDOW, end - at)))
        fields = header.fields()
        inflated, packed = fields.get(2, -1), fields.get(3, -1)
        if inflated < 0 or packed < 0:
            raise BadPage("a page header lacks its sizes")
        at += header.at + packed
        total += inflated
    if at > end:
        raise BadPage("a page runs beyond its column")
    return total
