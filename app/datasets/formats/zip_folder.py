"""A zip of images, one folder per class (the ImageFolder layout), inside any number of common outer folders."""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.datasets.children import Children
from app.datasets.findings import Findings, refuse
from app.datasets.formats.zip_archive import CorruptEntry, Entry, inflate, read_entries
from app.datasets.image_checker import ImageChecker
from app.datasets.images import BadImage, ImageInfo
from app.settings import Settings

_IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Picture:
    """One example: its class is the name of its folder."""

    entry: str
    label: str
    data: bytes
    info: ImageInfo


class ZipFolder:
    """An archive whose directory was read and found safe."""

    def __init__(self, path: Path, settings: Settings, children: Children) -> None:
        self._path = path
        self._settings = settings
        self._children = children
        with path.open("rb") as file:
            entries = read_entries(file, settings)
        _check_not_office(entries)
        self._entries = [entry for entry in entries if not _is_ignored(entry.name)]
        if not self._entries:
            raise refuse("empty_archive", "The archive holds no images.", hint="Put one folder per class into it.")
        if len(self._entries) > settings.max_examples:
            raise refuse("too_many_examples", f"The archive has more than {settings.max_examples} examples.")

    def pictures(self, findings: Findings) -> Generator[Picture, None, None]:
        """The sound images in the order of the archive; the other entries go to `findings`.

        Close it where it is not read to its end: a child process belongs to it.
        """
        outer = _outer_folders(self._entries)
        seen: set[str] = set()
        with self._path.open("rb") as file, ImageChecker(self._settings, self._children) as checker:
            for entry in self._entries:
                try:
                    self._check_entry(entry, outer, seen)
                    yield self._picture(file, entry, checker)
                except BadImage as error:
                    findings.entry(entry.name, error.code, error.message, hint=_HINTS.get(error.code))
                if checker.is_spent:
                    break
                seen.add(entry.name)

    def _check_entry(self, entry: Entry, outer: list[str], seen: set[str]) -> None:
        parts = entry.name.split("/")
        if entry.name in seen:
            raise BadImage("repeated_entry", "occurs twice in the archive")
        if len(parts) < 2 or parts[:-2] != outer or not parts[-2].strip():
            raise BadImage("not_in_class_folder", "is not in a class folder")
        if entry.size > self._settings.max_image_bytes:
            raise BadImage("image_too_large", f"has {entry.size} bytes, more than {self._settings.max_image_bytes}")

    def _picture(self, file: BinaryIO, entry: Entry, checker: ImageChecker) -> Picture:
        try:
            data = inflate(file, entry)
        except CorruptEntry as error:
            raise BadImage("damaged_entry", str(error)) from error
        return Picture(entry.name, entry.name.split("/")[-2].strip(), data, checker.check(data))


_HINTS = {
    "not_in_class_folder": "Put every image into the folder of its class, all folders side by side.",
    "undecodable_image": "Leave it out, or save it anew from a program that opens it.",
    "too_many_scans": "Save it as a plain JPEG, not a progressive one.",
    "pixel_type": "Save it as RGB or grey.",
}


def _is_ignored(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return hidden or parts[-1].casefold() in _IGNORED_NAMES


def _outer_folders(entries: list[Entry]) -> list[str]:
    """The folders that the class folders lie in, by majority."""
    counted = Counter(tuple(entry.name.split("/")[:-2]) for entry in entries if "/" in entry.name)
    return list(counted.most_common(1)[0][0]) if counted else []


def _check_not_office(entries: list[Entry]) -> None:
    if any(entry.name == "[Content_Types].xml" for entry in entries):
        raise refuse("unsupported_format", "The file is an office document.", hint="Save the sheet as CSV.")
