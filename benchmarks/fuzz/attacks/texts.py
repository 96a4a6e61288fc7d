"""Encodings, characters that cannot be stored, and files that are something else than their names say."""

from benchmarks.fuzz.attacks.building import png, saved
from benchmarks.fuzz.attacks.cases import Attack, Make
from benchmarks.fuzz.attacks.pictures import textured

_CSV, _JSONL = "data.csv", "data.jsonl"
_PLAIN = "text,label\nhello you there,a\nhow are you,b\n"
_ROWS = b"text,label\none two three,a\n"
_OBJECTS = b'{"text": "one two three", "label": "a"}\n'


def _whole(title: str, code: str, make: Make, filename: str = _CSV) -> Attack:
    return Attack(f"text: {title}", make, code, filename)


def _second(title: str, line: bytes, code: str, column: str | None = None) -> Attack:
    """A good line of CSV and a bad one."""
    return Attack(f"text: {title}", lambda: _ROWS + line + b"\n", code, _CSV, row=2, column=column)


def _object(title: str, line: bytes, code: str, column: str | None = None) -> Attack:
    """A good line of JSONL and a bad one."""
    return Attack(f"text: {title}", lambda: _OBJECTS + line + b"\n", code, _JSONL, row=2, column=column)


ENCODINGS = (
    _whole("UTF-16", "wrong_encoding", lambda: _PLAIN.encode("utf-16")),
    _whole("UTF-16, other order", "wrong_encoding", lambda: b"\xfe\xff" + _PLAIN.encode("utf-16-be")),
    _whole("UTF-16 without a mark", "bad_column_name", lambda: _PLAIN.encode("utf-16-le")),
    _whole("UTF-32", "wrong_encoding", lambda: _PLAIN.encode("utf-32")),
    _whole("UTF-32 without a mark", "bad_column_name", lambda: _PLAIN.encode("utf-32-be")),
    _whole("UTF-16 objects", "wrong_encoding", lambda: _OBJECTS.decode().encode("utf-16"), _JSONL),
    _second("Latin-1", b"caf\xe9 au lait,b", "wrong_encoding"),
    _second("Latin-1 in a label", b"one more,\xe9t\xe9", "wrong_encoding"),
    _second("Shift JIS", "元気ですか,b".encode("shift_jis"), "wrong_encoding"),
    _second("GB 18030", "你好吗,b".encode("gb18030"), "wrong_encoding"),
    _second("overlong slash", b"a \xc0\xaf b,b", "wrong_encoding"),
    _second("overlong NUL", b"a \xc0\x80 b,b", "wrong_encoding"),
    _second("half a surrogate pair in bytes", b"a \xed\xa0\x80 b,b", "wrong_encoding"),
    _second("a whole surrogate pair in bytes", b"a \xed\xa0\xbd\xed\xb8\x80 b,b", "wrong_encoding"),
    _second("beyond the last character", b"a \xf4\x90\x80\x80 b,b", "wrong_encoding"),
    _second("five bytes for a character", b"a \xf8\x88\x80\x80\x80 b,b", "wrong_encoding"),
    _second("a character cut off", b"a b \xe2\x82,b", "wrong_encoding"),
    _second("a continuation alone", b"a \x80 b,b", "wrong_encoding"),
    _object("Latin-1 in an object", b'{"text": "caf\xe9", "label": "b"}', "wrong_encoding"),
    _object("overlong quote in an object", b'{"text": "\xc0\xa2", "label": "b"}', "wrong_encoding"),
)

CHARACTERS = (
    _second("NUL in a text", b"a\0b c d,b", "bad_characters", "text"),
    _second("NUL in a label", b"e f g,b\0", "bad_characters", "label"),
    _whole("NUL in a column name", "bad_column_name", lambda: b"te\0xt,label\na b c,x\n"),
    _whole("NUL alone", "bad_column_name", lambda: b"\0" * 100),
    _object("NUL in an object", b'{"text": "a\\u0000", "label": "b"}', "bad_characters", "text"),
    _object("plain NUL in an object", b'{"text": "a\0", "label": "b"}', "bad_characters", "text"),
    _object("NUL in a label of an object", b'{"text": "a b c", "label": "\\u0000"}', "bad_characters", "label"),
    _whole("NUL in a key", "bad_column_name", lambda: b'{"te\\u0000xt": "a", "label": "x"}\n', _JSONL),
    _object("first half of a pair", b'{"text": "a \\ud800", "label": "b"}', "bad_characters", "text"),
    _object("second half of a pair", b'{"text": "a \\udfff", "label": "b"}', "bad_characters", "text"),
    _object("a pair the wrong way round", b'{"text": "\\udc00\\ud800", "label": "b"}', "bad_characters", "text"),
    _object("half a pair in a label", b'{"text": "a b c", "label": "\\udc00"}', "bad_characters", "label"),
    _whole("half a pair in a key", "bad_column_name", lambda: b'{"t\\udfff": "a", "label": "x"}\n', _JSONL),
)

#: First bytes of files that are not read, by name.
_FOREIGN = {
    "gzip": b"\x1f\x8b\x08\0",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\0",
    "7-Zip": b"7z\xbc\xaf\x27\x1c",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "RAR": b"Rar!\x1a\x07\x01\0",
    "PDF": b"%PDF-1.7\n",
    "old office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
}


def _foreign(title: str, data: bytes, filename: str = _CSV) -> Attack:
    return Attack(f"text: {title} called {filename}", lambda: data, "unsupported_format", filename, 415)


FORMATS = (
    *(_foreign(title, mark + bytes(60)) for title, mark in _FOREIGN.items()),
    _foreign("PNG", png()),
    _foreign("JPEG", saved(textured(20), "JPEG")),
    _foreign("table", _PLAIN.encode(), "data.zip"),
    _foreign("table", _PLAIN.encode(), "data.parquet"),
    _foreign("table", _PLAIN.encode(), "data.xlsx"),
    _whole("bytes of all values", "bad_column_name", lambda: bytes(range(256)) * 50, "data.bin"),
    _whole("program", "bad_header", lambda: b"\x7fELF\x02\x01\x01\xff" * 9, "data.bin"),
)

ATTACKS = (*ENCODINGS, *CHARACTERS, *FORMATS)
