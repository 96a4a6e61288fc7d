"""Lines of a text file, bounded: a file without a line break is never read whole."""

from collections.abc import Iterator
from pathlib import Path

from app.datasets.findings import refuse
from app.settings import Settings

_CHUNK = 2**16
_BOM = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Lines:
    """Iterates over the raw lines of a file, ending `\\n`, `\\r\\n` or `\\r`, their ends kept, a BOM left out.

    The caller says where a record ends; one beyond the limits of bytes and lines is refused.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        # Room for one cell of the longest text, and for many short ones.
        self.max_bytes = 4 * settings.max_text_chars + 8 * 2**20
        self.max_lines = settings.max_text_chars + 10_000
        self.max_blank = settings.max_examples + 1_000
        self.number = 0
        self._blank = 0
        self._record_bytes = 0
        self._record_lines = 0
        self.offset = 0
        """Where in the file the current line begins."""

    def __iter__(self) -> Iterator[bytes]:
        end = 0
        for line in self._split():
            self.number += 1
            self.offset, end = end, end + len(line)
            self._record_bytes += len(line)
            self._record_lines += 1
            self._check(self._record_bytes)
            if self.number == 1 and line.startswith(_BOM):
                self.offset += len(_BOM)
                line = line[len(_BOM) :]  # noqa: PLW2901 - the same line without its mark
            yield line

    def _split(self) -> Iterator[bytes]:
        rest = b""
        with self.path.open("rb") as file:
            while chunk := file.readline(_CHUNK):
                lines = (rest + chunk).splitlines(keepends=True)
                # A \r at the end of a chunk may be half of \r\n.
                rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
                yield from lines
                self._check(len(rest))
        yield from rest.splitlines(keepends=True)

    def end_record(self) -> int:
        """Begins the next record; the size of this one."""
        size, self._record_bytes, self._record_lines = self._record_bytes, 0, 0
        return size

    def check_blank(self) -> None:
        """Counts a blank record: half a gigabyte of line breaks would take minutes to pass over."""
        self._blank += 1
        if self._blank > self.max_blank:
            message = f"There are more than {self.max_blank} blank lines (near line {self.number})."
            raise refuse("too_many_blank_lines", message, hint="Remove them.")

    def _check(self, size: int) -> None:
        if size > self.max_bytes or self._record_lines > self.max_lines:
            limits = f"{self.max_bytes} bytes or {self.max_lines} lines"
            message = f"The record that begins near line {self.number - self._record_lines + 1} is beyond {limits}."
            raise refuse("record_too_long", message, hint="Is there an unclosed quote, or are line breaks missing?")


def check_encoding(path: Path) -> None:
    """Raises `InvalidInput` where the file begins as one of the encodings that are not UTF-8."""
    with path.open("rb") as file:
        name = _OTHER_ENCODINGS.get(file.read(2))
    if name:
        raise refuse("wrong_encoding", f"The file is {name} (byte 1).", hint="Save it as UTF-8.")


def decode(line: bytes, lines: Lines) -> tuple[str, str | None]:
    """The line as text, and what in it is not UTF-8 (bytes of the file are counted from 1), if anything."""
    try:
        return line.decode(), None
    except UnicodeDecodeError as error:
        place = lines.offset + error.start + 1
        problem = f"byte {place} of the file (0x{line[error.start]:02x}, line {lines.number}) is not UTF-8"
        return line.decode(errors="replace"), problem
