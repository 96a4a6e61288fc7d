"""CSV: a header line, one of `,` `;` or tab between fields (found by looking), RFC 4180 quotes, UTF-8."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from app.datasets.cells import Cell
from app.datasets.findings import Findings, refuse
from app.datasets.formats.lines import Lines, check_encoding, decode
from app.datasets.rows import Batch, batched, check_header, check_row
from app.settings import Settings

_DELIMITERS = ",;\t"
_SAMPLE_BYTES = 2**16
_SAMPLE_RECORDS = 20

# The limit is one for the whole process; `Lines` bounds every record, so a field needs no second bound.
csv.field_size_limit(2**31 - 1)


class CsvTable:
    """A CSV file as a `TableReader`. Blank lines are skipped and not counted as rows."""

    def __init__(self, path: Path, settings: Settings) -> None:
        check_encoding(path)
        self._path = path
        self._settings = settings
        self._delimiter = _sniff(self._sample())
        self.columns = check_header(self._header(), settings)

    def _sample(self) -> list[str]:
        sample, size = [], 0
        lines = Lines(self._path, self._settings)
        for line in lines:
            sample.append(line.decode(errors="replace"))
            size += lines.end_record()
            if size > _SAMPLE_BYTES:
                break
        return sample

    def _header(self) -> Sequence[str]:
        findings = Findings()
        for row, cells, _ in self._records(findings):
            if row == 0:
                return [cell or "" for cell in cells]
        if findings:
            raise refuse("bad_header", f"The header line cannot be read: {findings.items[0].message}")
        raise refuse("empty_file", "The file is empty.")

    def batches(self, findings: Findings) -> Iterator[Batch]:
        yield from batched(self._complete_rows(findings), len(self.columns))

    def _complete_rows(self, findings: Findings) -> Iterator[tuple[int, Sequence[Cell], int]]:
        width = len(self.columns)
        for row, cells, size in self._records(findings):
            if row == 0:
                continue
            if len(cells) == width:
                yield row, cells, size
            else:
                message = f"has {len(cells)} fields instead of {width}"
                findings.row(row, "wrong_number_of_fields", message, hint=_fields_hint(len(cells) > width))

    def _records(self, findings: Findings) -> Iterator[tuple[int, Sequence[Cell], int]]:
        """(row, fields, bytes) of each record that can be read; the header is row 0."""
        lines = Lines(self._path, self._settings)
        decoder = _Decoder(lines)
        reader = csv.reader(decoder, delimiter=self._delimiter, strict=True)
        row = -1
        while True:
            problem = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, problem = [], f"cannot be read: {error} (line {lines.number})"
            problem = decoder.take_problem() or problem
            size = lines.end_record()
            if len(cells) < 2 and problem is None and not "".join(cells).strip():
                lines.check_blank()
                continue
            row += 1
            check_row(row, self._settings)
            if problem is None:
                yield row, cells, size
            else:
                code = "wrong_encoding" if "UTF-8" in problem else "bad_quotes"
                findings.row(row, code, problem, hint=_HINTS[code])


_HINTS = {
    "wrong_encoding": "Save the file as UTF-8.",
    "bad_quotes": "Put the field in double quotes and double the quotes inside it.",
}


def _fields_hint(too_many: bool) -> str:
    return "Put fields that contain the delimiter in double quotes." if too_many else "Write an empty field as nothing."


class _Decoder:
    """Decodes lines, and remembers the first of a record that is not UTF-8."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._problem: str | None = None

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            text, problem = decode(line, self._lines)
            self._problem = self._problem or problem
            yield text

    def take_problem(self) -> str | None:
        problem, self._problem = self._problem, None
        return problem


def _sniff(sample: list[str]) -> str:
    """The delimiter that cuts the most records into as many fields as the header has; then the one with most fields."""
    return max(_DELIMITERS, key=lambda delimiter: _score(sample, delimiter))


def _score(sample: list[str], delimiter: str) -> tuple[float, int]:
    records = [record for record in islice(csv.reader(sample, delimiter=delimiter), _SAMPLE_RECORDS + 1) if record]
    width = len(records[0]) if records else 0
    if width < 2:
        return 0.0, width
    same = sum(len(record) == width for record in records)
    return same / len(records), width
