"""JSONL: one JSON object a line, UTF-8. The columns are all keys in order of first sight; an absent key is missing."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from app.datasets.cells import Cell
from app.datasets.findings import Findings, refuse
from app.datasets.formats.lines import Lines, check_encoding, decode
from app.datasets.rows import Batch, batched, check_columns, check_row
from app.settings import Settings


class JsonLinesTable:
    """A JSONL file as a `TableReader`. Blank lines are skipped and not counted as rows."""

    def __init__(self, path: Path, settings: Settings) -> None:
        check_encoding(path)
        self._path = path
        self._settings = settings
        self.columns = check_columns(self._keys(settings.max_columns), settings)

    def _keys(self, limit: int) -> Sequence[str]:
        keys: dict[str, None] = {}
        for _, values, _ in self._objects(Findings()):
            keys.update(dict.fromkeys(values))
            if len(keys) > limit:
                break
        return list(keys)

    def batches(self, findings: Findings) -> Iterator[Batch]:
        rows = ((row, [values.get(name) for name in self.columns], size) for row, values, size in self._rows(findings))
        yield from batched(rows, len(self.columns))

    def _rows(self, findings: Findings) -> Iterator[tuple[int, dict[str, Cell], int]]:
        for row, values, size in self._objects(findings):
            nested = [name for name, value in values.items() if isinstance(value, list | dict)]
            for name in nested:
                findings.row(
                    row, "nested_value", "is a list or an object", column=name.strip(), hint="Use plain values."
                )
            if not nested:
                yield row, {name.strip(): _cell(value) for name, value in values.items()}, size

    def _objects(self, findings: Findings) -> Iterator[tuple[int, dict[str, Any], int]]:
        lines = Lines(self._path, self._settings)
        row = 0
        for line in lines:
            size = lines.end_record()
            if not line.strip():
                lines.check_blank()
                continue
            row += 1
            check_row(row, self._settings)
            text, problem = decode(line, lines)
            if problem:
                findings.row(row, "wrong_encoding", problem, hint="Save the file as UTF-8.")
                continue
            try:
                yield row, _parse(text), size
            except ValueError as error:
                findings.row(row, "bad_json", f"is no JSON object: {error}", hint="Write one JSON object a line.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {json.dumps(name[:60])} occurs twice")
    return values


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value; write null")


# Numbers stay text, as in a CSV file: no digit is lost, and none is too long to read.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=_refuse_constant, strict=False
)


def _parse(line: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is another kind of value")  # noqa: TRY004 - the caller reports every ValueError
    return value


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def check_not_an_array(first: bytes) -> None:
    """Raises `InvalidInput` for a JSON document that is one array, a common mistake."""
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise refuse("json_array", "The file is a JSON array.", hint="Write one JSON object a line, without brackets.")
