"""Which format a file has: by its first bytes, then by its name."""

from pathlib import Path

from app.datasets.children import Children
from app.datasets.findings import refuse
from app.datasets.formats.csv_file import CsvTable
from app.datasets.formats.jsonl import JsonLinesTable, check_not_an_array
from app.datasets.formats.parquet import ParquetTable
from app.datasets.formats.zip_folder import ZipFolder
from app.errors import UnsupportedMedia
from app.settings import Settings

_ACCEPTED = "Send a zip of folders per class, CSV, JSONL or Parquet."
_UNSUPPORTED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"Rar!": "RAR",
    b"%PDF": "PDF",
    b"\x89PNG": "a single PNG image",
    b"\xff\xd8\xff": "a single JPEG image",
    b"\xd0\xcf\x11\xe0": "an old office document",
}
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}


def open_upload(
    path: Path, filename: str, settings: Settings, children: Children
) -> ZipFolder | CsvTable | JsonLinesTable | ParquetTable:
    """A reader of the uploaded file, its header or directory checked.

    Raises:
        InvalidInput: the file is damaged, unsafe or beyond a limit.
        UnsupportedMedia: it is of no known format.
        Unavailable: there is no place among `children` to read it.
    """
    with path.open("rb") as file:
        first = file.read(2**12)
    if not first:
        raise refuse("empty_file", "The file is empty.")
    if first.startswith((b"PK\3\4", b"PK\5\6")):
        return ZipFolder(path, settings, children)
    if first.startswith(b"PAR1"):
        return ParquetTable(path, settings, children)
    for magic, name in _UNSUPPORTED.items():
        if first.startswith(magic):
            raise UnsupportedMedia(f"The file is {name}. {_ACCEPTED}", code="unsupported_format")
    suffix = Path(filename).suffix.lower()
    if suffix in _JSON_SUFFIXES:
        check_not_an_array(first)
    if suffix in _JSON_SUFFIXES or first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return JsonLinesTable(path, settings)
    if suffix in {".zip", ".parquet", ".xls", ".xlsx"}:
        raise UnsupportedMedia(f"The file is no {suffix[1:]} file. {_ACCEPTED}", code="unsupported_format")
    return CsvTable(path, settings)
