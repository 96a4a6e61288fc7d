"""Zip archives that lie about their entries' names, kinds and sizes, or about themselves."""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.fuzz.attacks.building import (
    LINK,
    RawEntry,
    bomb,
    end_record,
    png,
    raw_zip,
    two_classes,
    wide_end,
    zip_of,
)
from benchmarks.fuzz.attacks.cases import Attack, Make

_NAME = "data.zip"
_UTF8 = 0x800
_FIRST = b"cat/1.png"


def _named(name: bytes, flags: int = 0) -> bytes:
    """An archive with one honest image and one whose name is `name`."""
    return raw_zip(RawEntry(_FIRST), RawEntry(name, flags=flags))


def _traversal(title: str, name: str, code: str = "path_traversal", *, cut: str | None = None) -> Attack:
    make = partial(_named, name.encode(), 0 if name.isascii() else _UTF8)
    return Attack(f"name: {title}", make, code, _NAME, entry=name if cut is None else cut)


def _one(title: str, code: str, *, entry: str | None = "cat/1.png", name: bytes = _FIRST, **lies: Any) -> Attack:
    """An archive whose one entry tells these lies."""
    return Attack(f"entry: {title}", lambda: raw_zip(RawEntry(name, **lies)), code, _NAME, entry=entry)


def _whole(title: str, make: Callable[[], bytes], code: str = "corrupt_archive") -> Attack:
    """An archive that is wrong as a whole, so that no entry is to be named."""
    return Attack(f"archive: {title}", make, code, _NAME)


NAMES = (
    _traversal("parent folder", "../../etc/cron.d/x.png"),
    _traversal("parent folder inside", "cat/../../x.png"),
    _traversal("parent folder at the end", "cat/.."),
    _traversal("absolute path", "/etc/x.png"),
    _traversal("network share", "//server/share/x.png"),
    _traversal("drive letter", "C:/x/x.png"),
    _traversal("drive letter without a slash", "c:x.png"),
    _traversal("drive letter, percent code", "C%3A/x/x.png"),
    _traversal("backslashes", "..\\..\\x.png", "entry_name"),
    _traversal("network share with backslashes", "\\\\server\\share\\x.png", "entry_name"),
    _traversal("slash and backslash", "cat/..\\x.png", "entry_name"),
    _traversal("percent code of dots", "%2e%2e/x.png"),
    _traversal("percent code of dots, upper case", "%2E%2E/x.png"),
    _traversal("percent code of one dot", ".%2e/x.png"),
    _traversal("percent code of the slash", "..%2fx.png"),
    _traversal("percent code of everything", "%2e%2e%2fx.png"),
    _traversal("percent code of the backslash", "..%5cx.png", "entry_name"),
    _traversal("percent code of an absolute path", "%2fetc/x.png"),
    _traversal("percent code twice", "%252e%252e/x.png"),
    _traversal("percent code three times", "%25252e%25252e%25252fx.png"),
    _traversal("percent code without end", "%" + "25" * 20 + "2e/x.png", "entry_name"),
    _traversal("percent code of NUL", "cat/x.png%00.txt", "entry_name"),
    _traversal("fullwidth dots", "\uff0e\uff0e/x.png"),
    _traversal("fullwidth slash", "..\uff0fx.png"),
    _traversal("fullwidth backslash", "..\uff3cx.png", "entry_name"),
    _traversal("fullwidth percent code", "\uff052e\uff052e/x.png"),
    _traversal("fullwidth drive letter", "\uff23\uff1a/x.png"),
    _traversal("dot leaders", "\u2024\u2024/x.png"),
    _traversal("two dot leader", "\u2025/x.png"),
    _traversal("small full stops", "\ufe52\ufe52/x.png"),
    _traversal("small backslash", "..\ufe68x.png", "entry_name"),
    _traversal("blank after the dots", "cat/.. /x.png"),
    _traversal("one dot", "cat/./x.png", "entry_name"),
    _traversal("one dot at the start", "./cat/x.png", "entry_name"),
    _traversal("three dots", "cat/.../x.png", "entry_name"),
    _traversal("empty part", "cat//x.png", "entry_name"),
    _traversal("address of a file", "file:///etc/x.png", "entry_name"),
    _traversal("no name", "", "entry_name"),
    _traversal("NUL", "cat/x.png\0.txt", "entry_name", cut="cat/x.png␀.txt"),
    _traversal("NUL alone", "\0", "entry_name", cut="␀"),
    _whole("overlong dots in a name", partial(_named, b"\xc0\xae\xc0\xae/x.png", _UTF8)),
    _whole("overlong slash in a name", partial(_named, b"..\xc0\xafx.png", _UTF8)),
    _whole("half a surrogate pair in a name", partial(_named, b"cat/\xed\xa0\x80.png", _UTF8)),
    _one("two names", "two_headers", local_name=b"../1.png."),
    _one("a shorter name in its own header", "two_headers", local_name=b"cat/1"),
)

KINDS = (
    _one("symbolic link", "not_a_file", data=b"/etc/passwd", mode=LINK),
    _one("symbolic link called a folder", "not_a_file", name=b"cat/", entry="cat/", data=b"/etc", mode=LINK),
    _one("character device", "not_a_file", data=b"", mode=0o020666),
    _one("block device", "not_a_file", data=b"", mode=0o060666),
    _one("pipe", "not_a_file", data=b"", mode=0o010666),
    _one("socket", "not_a_file", data=b"", mode=0o140666),
    _one("folder with content", "not_a_file", name=b"cat/", entry="cat/", mode=0o040755),
    _one("encrypted", "encrypted_entry", flags=1),
    _one("strongly encrypted", "encrypted_entry", flags=0x41),
    _one("masked headers", "encrypted_entry", flags=0x2000),
    _one("encrypted by its own header alone", "two_headers", local_flags=1),
    _one("bzip2", "compression_method", method=12),
    _one("LZMA", "compression_method", method=14),
    _one("Zstandard", "compression_method", method=93),
    _one("AES", "compression_method", method=99),
    _one("deflate64", "compression_method", method=9),
    _one("another compression in its own header", "two_headers", local_method=0),
)


SIZES = (
    Attack("size: 64 MB that declare 100 bytes", lambda: bomb(2**26, 100), "wrong_size", _NAME, entry="cat/1.png"),
    _one("declares too much", "wrong_size", size=10_000),
    _one("declares one byte too few", "wrong_size", size=len(png()) - 1),
    _one("declares nothing", "wrong_size", size=0),
    _one("stored with two sizes", "wrong_size", method=0, size=10),
    _one("its stream is cut off", "wrong_size", packed_size=30),
    _one("its stream goes on into the directory", "corrupt_archive", entry=None, packed_size=10**6),
    _one("wrong checksum", "damaged_entry", crc=1),
    _one("no deflate stream", "damaged_entry", packed=b"\xff" * 60),
    Attack("size: 10 GB of zeros", lambda: bomb(10 * 2**30), "inflated_too_large", _NAME, entry="cat/1.png"),
    Attack("size: a thousand times", lambda: bomb(2**30), "inflation_ratio", _NAME, entry="cat/1.png"),
    Attack(
        "size: three declare a gigabyte each",
        lambda: raw_zip(*(RawEntry(b"cat/%d.png" % i, size=2**30) for i in range(3))),
        "inflated_too_large",
        _NAME,
        entry="cat/0.png",
    ),
    _one("declares eight exabytes", "inflated_too_large", size=2**63),
    _one("declares all that 64 bits can", "inflated_too_large", size=2**64 - 1),
    _one("stands at eight exabytes", "corrupt_archive", entry=None, offset=2**63),
    _one("stands where 64 bits end", "corrupt_archive", entry=None, offset=2**64 - 1),
    _one("stands at four exabytes", "corrupt_archive", entry=None, offset=2**62),
    _one("packed into four exabytes", "corrupt_archive", entry=None, packed_size=2**62),
    _one("a zip64 field cut off", "corrupt_archive", entry=None, size=2**32, extra=b"\1\0\x20\0\0"),
)


def _overlapping(n: int) -> bytes:
    """Entries that share the bytes of one, as in archives that inflate without end."""
    return raw_zip(RawEntry(_FIRST), *(RawEntry(_FIRST, offset=0) for _ in range(n - 1)))


def _quoted() -> bytes:
    """An entry whose bytes hold another entry's local header."""
    inner = raw_zip(RawEntry(b"dog/1.png"))
    return raw_zip(RawEntry(_FIRST, data=inner, method=0), RawEntry(b"dog/1.png", offset=30 + len(_FIRST)))


def _many(n: int, name: str = "cat/%d") -> bytes:
    """An archive of `n` empty files."""
    body, directory = bytearray(), bytearray()
    for i in range(n):
        path = (name % i).encode()
        offset = len(body)
        body += b"PK\3\4" + struct.pack("<H", 20) + bytes(20) + struct.pack("<2H", len(path), 0) + path
        directory += b"PK\1\2" + struct.pack("<2H", 20, 20) + bytes(20)
        directory += struct.pack("<5H2L", len(path), 0, 0, 0, 0, 0, offset) + path
    return bytes(body + directory) + wide_end(n, len(directory), len(body))


def _garbled(find: bytes, replacement: bytes) -> bytes:
    honest = zip_of(two_classes(1))
    return honest.replace(find, replacement, 1)


def _end(count: int, length: int, start: int) -> Callable[[], bytes]:
    return lambda: b"PK\3\4" + bytes(26) + end_record(count, length, start)


STRUCTURES = (
    Attack("archive: shared bytes", lambda: _overlapping(2), "overlapping_entries", _NAME, entry="cat/1.png"),
    Attack("archive: 999 share one", lambda: _overlapping(999), "overlapping_entries", _NAME, entry="cat/1.png"),
    Attack("archive: entry in an entry", _quoted, "overlapping_entries", _NAME, entry="dog/1.png"),
    _whole("more entries than there are", lambda: raw_zip(RawEntry(_FIRST), extra_count=3)),
    _whole("fewer entries than there are", lambda: raw_zip(RawEntry(_FIRST), RawEntry(b"x/2"), extra_count=-1)),
    _whole("60,000 entries that are not there", lambda: raw_zip(RawEntry(_FIRST), extra_count=60_000)),
    _whole("an entry where none is", lambda: raw_zip(RawEntry(_FIRST), RawEntry(b"dog/1.png", offset=7))),
    _whole("an entry in the directory", lambda: raw_zip(RawEntry(_FIRST, offset=180))),
    _whole("something before it", lambda: b"PK\3\4#!/bin/sh\n" + zip_of(two_classes(1))),
    _whole("something after it", lambda: zip_of(two_classes(1)) + b"x" * 30),
    _whole("something before its end", lambda: (whole := zip_of(two_classes(1)))[:-22] + b"x" + whole[-22:]),
    _whole("cut off at the end", lambda: zip_of(two_classes(1))[:-40]),
    _whole("cut in half", lambda: (whole := zip_of(two_classes(5)))[: len(whole) // 2]),
    _whole("a first header alone", lambda: b"PK\3\4"),
    _whole("garbage after the mark", lambda: b"PK\3\4" + bytes(range(256)) * 20),
    _whole("on two disks", lambda: raw_zip(RawEntry(_FIRST), disk=1)),
    _whole("another end in its comment", lambda: raw_zip(RawEntry(_FIRST), comment=end_record(0, 0, 0))),
    _whole("a comment cut off", lambda: raw_zip(RawEntry(_FIRST), comment=b"x" * 100)[:-10]),
    _whole("a garbled directory", lambda: _garbled(b"PK\1\2", b"PK\1\3")),
    _whole("a directory before its start", _end(1, 10**6, 0)),
    _whole("a directory after its end", _end(1, 46, 2**32 - 2)),
    _whole("a directory of nothing for an entry", _end(1, 0, 30)),
    _whole("a zip64 end elsewhere", lambda: b"PK\3\4" + bytes(26) + wide_end(0, 0, 30, at=2)),
    _whole("a zip64 directory beyond 64 bits", lambda: b"PK\3\4" + bytes(26) + wide_end(1, 2**63, 2**63, at=30)),
    _whole("ten million entries declared", lambda: b"PK\3\4" + bytes(26) + wide_end(10**7, 0, 30), "too_many_entries"),
    _whole(
        "a directory that wraps around", lambda: b"PK\3\4" + bytes(26) + wide_end(1, 2**40, 2**64 - 2**40 + 30, at=30)
    ),
    Attack("archive: 500,000 empty files", lambda: _many(500_000), "too_many_entries", _NAME, is_heavy=True),
    Attack("archive: 250,000 empty files", lambda: _many(250_000), "too_many_examples", _NAME, is_heavy=True),
    Attack("archive: 400,000 folders", lambda: _many(400_000, "c%d/"), "empty_archive", _NAME, is_heavy=True),
)


def _with(name: str, data: bytes) -> Make:
    """An honest archive and one entry more."""
    return lambda: zip_of(two_classes(1) | {name: data})


def _content(title: str, name: str, data: bytes, code: str = "not_an_image") -> Attack:
    return Attack(f"content: {title}", _with(name, data), code, _NAME, entry=name)


def _nested(depth: int) -> bytes:
    data = zip_of(two_classes(1))
    for level in range(depth):
        data = zip_of({f"cat/{level}.zip": data})
    return data


_LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'

CONTENTS = (
    Attack("content: archives in archives", lambda: _nested(5), "not_an_image", _NAME, entry="cat/4.zip"),
    _content("archive called a picture", "cat/9.png", zip_of(two_classes(1))),
    _content("archive in a class", "cat/9.zip", zip_of(two_classes(1))),
    _content("program", "cat/run.exe", b"MZ\x90\0" + bytes(60)),
    _content("program of another system", "cat/run", b"\x7fELF" + bytes(60)),
    _content("shell script", "cat/run.sh", b"#!/bin/sh\nrm -rf /\n"),
    _content("page with a script", "cat/9.html", b"<script>alert(1)</script>"),
    _content("drawing with a script", "cat/9.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'),
    _content("entities of entities", "cat/9.xml", _LAUGHS),
    _content("class file", "META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\n"),
    _content("empty file", "cat/9.png", b""),
    _content("one byte", "cat/9.png", b"\x89"),
    _content("table in a class", "cat/9.csv", b"text,label\na,b\n"),
    _content("outside of every class", "9.png", png(), "not_in_class_folder"),
    _content("too deep", "cat/deep/9.png", png(), "not_in_class_folder"),
    _content("class without a name", " /9.png", png(), "not_in_class_folder"),
    _content("class with a name of 501 letters", "c" * 501 + "/9.png", png(), "label_too_long"),
    Attack("content: the same name twice", lambda: raw_zip(RawEntry(_FIRST), RawEntry(_FIRST)), "repeated_entry", _NAME,
           entry="cat/1.png"),
    Attack("content: 21 MB in one picture",
           lambda: zip_of(two_classes(1) | {"cat/9.png": png() + bytes(21 * 2**20)}, 0),
           "image_too_large", _NAME, entry="cat/9.png"),
    Attack("content: no pictures", lambda: zip_of({"cat/": b""}), "empty_archive", _NAME),
    Attack("content: droppings alone", lambda: zip_of({"__MACOSX/cat/._1.png": b"x"}), "empty_archive", _NAME),
    Attack("content: an archive of nothing", lambda: end_record(0, 0, 0), "empty_archive", _NAME),
    Attack("content: workbook", lambda: zip_of({"[Content_Types].xml": b"<x/>", "a/b.xml": b""}), "unsupported_format",
           _NAME),
    Attack("content: 1,001 classes", lambda: zip_of({f"c{i}/1.png": png(side=4) for i in range(1001)}),
           "too_many_classes", _NAME),
    Attack("content: classes that are no numbers", lambda: zip_of(two_classes(1)), "not_a_number", _NAME,
           entry="cat/0.png", form={"task": "regression"}),
    Attack("content: classes that are no finite numbers", lambda: zip_of({"1e999/0.png": png()}), "number_out_of_range",
           _NAME, entry="1e999/0.png", form={"task": "regression"}),
    Attack("content: pictures called texts", lambda: zip_of(two_classes(1)), "modality", _NAME,
           form={"modality": "text"}),
    Attack("content: pictures with a column", lambda: zip_of(two_classes(1)), "no_columns", _NAME,
           form={"label_column": "label"}),
)  # fmt: skip

ATTACKS = (*NAMES, *KINDS, *SIZES, *STRUCTURES, *CONTENTS)
