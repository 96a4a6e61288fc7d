"""Files that look odd and are right. They must be accepted, or the defences are worth nothing."""

import io
import json
import zipfile

import pyarrow as pa
from PIL import Image

from benchmarks.fuzz.attacks.building import RawEntry, parquet_of, png, raw_zip, saved, two_classes, zip_of
from benchmarks.fuzz.attacks.cases import Harmless, Make
from benchmarks.fuzz.attacks.pictures import gif_of, jpeg, textured, tiff_of, with_chunks

_AB = {"a": 1, "b": 1}
_PETS = {"cat": 2, "dog": 1}
_TEXTS = b"text,label\none two three,a\nfour five six,b\n"


def _csv(title: str, data: bytes, rows: int = 2, classes: dict[str, int] | None = None) -> Harmless:
    return Harmless(f"CSV: {title}", lambda: data, "data.csv", rows, _AB if classes is None else classes)


def _jsonl(title: str, data: bytes) -> Harmless:
    return Harmless(f"JSONL: {title}", lambda: data, "data.jsonl", 2, _AB)


def _picture(title: str, make: Make) -> Harmless:
    """An archive of two plain pictures and this one, a cat."""
    return Harmless(f"image: {title}", lambda: zip_of(two_classes(1) | {"cat/odd": make()}), "data.zip", 3, _PETS)


def _archive(title: str, make: Make, rows: int, classes: dict[str, int]) -> Harmless:
    return Harmless(f"archive: {title}", make, "data.zip", rows, classes)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(textured(), "JPEG", exif=exif)


def _palette() -> bytes:
    return saved(textured(40).convert("P", palette=Image.Palette.ADAPTIVE, colors=7), "PNG", transparency=0)


def _animated(kind: str) -> bytes:
    frames = [textured(side).resize((40, 40)) for side in (40, 50, 60)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def _streamed() -> bytes:
    """An archive written without seeking back: sizes follow the entries, and the headers before them say 0."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            super().__init__()
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object, /) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in two_classes(1).items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=zipfile.ZIP_DEFLATED)
    return bytes(pipe.data)


TABLES = (
    _csv("byte order mark", b"\xef\xbb\xbf" + _TEXTS),
    _csv("lines of Windows", _TEXTS.replace(b"\n", b"\r\n")),
    _csv("lines of an old Macintosh", _TEXTS.replace(b"\n", b"\r")),
    _csv("lines of every kind", b"text,label\r\none two three,a\rfour five six,b\n"),
    _csv("no break at its end", _TEXTS[:-1]),
    _csv("blank lines in between", _TEXTS.replace(b"\n", b"\n\n \n")),
    _csv("line breaks in quotes", b'text,label\n"one\ntwo\r\nthree",a\n"four ""five"" six, seven",b\n'),
    _csv("blanks around names", b" text , label \none two three, a \nfour five six,b\n"),
    _csv("a column without values", b"x,empty,label\n1,,a\n2,,b\n"),
    _csv("fields in the way of spreadsheets", b"text,label\n=1+1 is two or so,a\n\"@SUM(A1) \x1b[31m\",b\n"),
    _csv("names in many scripts", "文章,label\n안녕 하세요 여러분,é\n你 好 吗,日\n".encode(), 2, {"é": 1, "日": 1}),
    _csv("letters that write backwards", "text,label\n\u202eone two three,a\n\u0301\u0301 five six,b\n".encode()),
    _csv("semicolons", b"x;y;label\n1,5;2;a\n2,5;3;b\n"),
    _csv("a text of 100,000 letters", b"text,label\n" + b"x" * 100_000 + b",a\nfour five six,b\n"),
    _csv("numbers of every form", b"x,label\n+1.5E-3,a\n.5,b\n"),
    _csv("a regression", b"x,y\n1,2.5\n2,3.75\n3,1e-3\n", 3, {}),
    _jsonl("byte order mark", b'\xef\xbb\xbf{"x": 1, "label": "a"}\n{"x": 2, "label": "b"}\n'),
    _jsonl("keys that come and go", b'{"x": 1, "label": "a"}\r\n\r\n{"label": "b", "y": null}'),
    _jsonl("codes for everything",
           b'{"\\u0078": "\\ud83d\\ude00 1", "label": "\\u0061"}\n{"x": "2 \\/", "label": "b"}\n'),
    _jsonl("a text of braces and brackets", json.dumps({"text": "[" * 9_000, "label": "a"}).encode()
           + b'\n{"text": "}}}}]]]] or so", "label": "b"}\n'),
)  # fmt: skip

PARQUET = (
    Harmless("Parquet: dictionaries", lambda: parquet_of({
        "x": pa.array(["u", "v"]).dictionary_encode(), "label": ["a", "b"],
    }), "data.parquet", 2, _AB),
    Harmless("Parquet: old and new types", lambda: parquet_of({
        "when": pa.array([1, 2**62], pa.timestamp("ns", tz="Europe/Berlin")), "day": pa.array([1, 2], pa.date32()),
        "half": pa.array([0.5, 1.5], pa.float16()), "flag": [True, None], "none": pa.nulls(2), "label": ["a", "b"],
    }), "data.parquet", 2, _AB),
    Harmless("Parquet: the index of its writer", lambda: parquet_of({
        "x": [1.0, float("nan")], "label": ["a", "b"], "__index_level_0__": [0, 1],
    }), "data.parquet", 2, _AB),
    Harmless("Parquet: a row in each group", lambda: parquet_of(
        {"x": [1, 2, 3], "label": ["a", "b", "a"]}, row_group_size=1, compression="brotli"), "data.parquet", 3,
        {"a": 2, "b": 1}),
    Harmless("Parquet: called a table", lambda: parquet_of({"x": [7, 8], "label": ["a", "b"]}), "data.csv", 2, _AB),
)  # fmt: skip

IMAGES = (
    _picture("four inks", lambda: saved(textured().convert("CMYK"), "JPEG")),
    _picture("sixteen bits of grey", lambda: saved(Image.new("I;16", (40, 40), 40_000), "PNG")),
    _picture("a palette with a hole", _palette),
    _picture("one bit", lambda: saved(textured(40).convert("1"), "PNG")),
    _picture("grey with a veil", lambda: saved(textured(40).convert("LA"), "PNG")),
    _picture("turned by its notes", _turned),
    _picture("in passes", lambda: jpeg(progressive=True)),
    _picture("a film, GIF", lambda: _animated("GIF")),
    _picture("a film, PNG", lambda: _animated("PNG")),
    _picture("a film, WebP", lambda: _animated("WEBP")),
    _picture("two pictures in one", lambda: _animated("MPO")),
    _picture("WebP without loss", lambda: saved(textured(), "WEBP", lossless=True)),
    _picture("TIFF in LZW", lambda: saved(textured(), "TIFF", compression="tiff_lzw")),
    _picture("TIFF byte by byte", lambda: tiff_of(9, 9, bytes(81))),
    _picture("BMP", lambda: saved(textured(), "BMP")),
    _picture("GIF of one pixel", lambda: gif_of((1, 1), (1, 1))),
    _picture("PNG with notes", lambda: with_chunks((b"tEXt", b"key\0value"), (b"meTa", bytes(99)))),
    _picture("an archive behind it", lambda: png() + zip_of(two_classes(1))),
    _picture("6,000 x 4,000", lambda: saved(Image.new("L", (6_000, 4_000), 9), "PNG")),
)

ARCHIVES = (
    _archive("folders of their own", lambda: zip_of({"cat/": b"", "dog/": b""} | two_classes(2)), 4,
             {"cat": 2, "dog": 2}),
    _archive("everything in a folder", lambda: zip_of({f"a/b/{x}": data for x, data in two_classes(1).items()}), 2,
             {"cat": 1, "dog": 1}),
    _archive("names in many scripts", lambda: zip_of({"Кошка/1 ü.png": png(), "犬/%20 100%.png": png((9, 9, 9))}), 2,
             {"Кошка": 1, "犬": 1}),
    _archive("droppings", lambda: zip_of(
        two_classes(1) | {"__MACOSX/cat/._0.png": b"x", "cat/.DS_Store": b"x", "cat/Thumbs.db": b"x"}), 2,
        {"cat": 1, "dog": 1}),
    _archive("a comment", lambda: raw_zip(RawEntry(b"cat/1.png"), RawEntry(b"dog/1.png", png((1, 2, 3))),
                                          comment=b"PK\5\6 is how an end begins"), 2, {"cat": 1, "dog": 1}),
    _archive("sizes after the entries", _streamed, 2, {"cat": 1, "dog": 1}),
    _archive("stored, not deflated", lambda: zip_of(two_classes(3), zipfile.ZIP_STORED), 6, {"cat": 3, "dog": 3}),
    _archive("called a table", lambda: zip_of(two_classes(4)), 8, {"cat": 4, "dog": 4}),
)  # fmt: skip

HARMLESS: tuple[Harmless, ...] = (*TABLES, *PARQUET, *IMAGES, *ARCHIVES)
