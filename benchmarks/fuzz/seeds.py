"""Honest uploads of every format, which mutations begin with. All small, and always the same."""

import functools
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from benchmarks.fuzz.attacks.building import RawEntry, parquet_of, png, raw_zip, saved, two_classes, zip_of
from benchmarks.fuzz.attacks.pictures import gif_of, textured, tiff_of


@dataclass(frozen=True)
class Seed:
    name: str
    filename: str
    make: Callable[[], bytes]

    @functools.cached_property
    def data(self) -> bytes:
        return self.make()


def _table() -> bytes:
    rows = "".join(f'{i / 7:.3f},{"uvw"[i % 3]},"some, ""text"" {i}",{"ab"[i % 2]}\r\n' for i in range(40))
    return f"x,colour,note,label\r\n{rows}".encode()


def _texts() -> bytes:
    return b"text,label\n" + "".join(f"así es la vida número {i},{'ab'[i % 2]}\n" for i in range(30)).encode()


def _objects() -> bytes:
    rows = [
        {"x": i / 3, "colour": "uvw"[i % 3], "flag": i % 2 == 0, "gap": None, "label": "ab"[i % 2]} for i in range(40)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def _columns() -> dict[str, object]:
    return {
        "x": pa.array([i / 3 for i in range(60)]),
        "n": pa.array([None if i % 9 == 0 else i for i in range(60)], pa.int32()),
        "colour": pa.array(["uvw"[i % 3] for i in range(60)]).dictionary_encode(),
        "day": pa.array(range(60), pa.date32()),
        "label": ["ab"[i % 2] for i in range(60)],
    }


def _wide_archive() -> bytes:
    entries = [RawEntry(f"c{i % 2}/{i}.png".encode(), png((i, i, i), side=9)) for i in range(6)]
    return raw_zip(*entries, comment=b"a comment")


ARCHIVES = (
    Seed("archive", "a.zip", lambda: zip_of(two_classes(2))),
    Seed("archive in a folder", "a.zip", lambda: zip_of({f"a/{name}": data for name, data in two_classes(2).items()})),
    Seed("stored archive", "a.zip", lambda: zip_of(two_classes(2), zipfile.ZIP_STORED)),
    Seed("archive with a comment", "a.zip", _wide_archive),
)

#: Bytes of single pictures. Mutated, they go into a sound archive.
PICTURES: tuple[Callable[[], bytes], ...] = (
    lambda: png(side=20),
    lambda: saved(textured(30).convert("P"), "PNG", transparency=0),
    lambda: saved(Image.new("I;16", (9, 9), 40_000), "PNG"),
    lambda: saved(textured(30), "JPEG", quality=60),
    lambda: saved(textured(30), "JPEG", progressive=True),
    lambda: saved(textured(30).convert("CMYK"), "JPEG"),
    lambda: gif_of((1, 1), (1, 1)),
    lambda: saved(textured(30).convert("P"), "GIF", save_all=True, append_images=[textured(30).convert("L")]),
    lambda: saved(textured(20), "BMP"),
    lambda: tiff_of(9, 9, bytes(range(81))),
    lambda: saved(textured(30), "TIFF", compression="tiff_lzw"),
    lambda: saved(textured(30), "TIFF", compression="jpeg"),
    lambda: saved(textured(30), "WEBP", quality=50),
    lambda: saved(textured(30), "WEBP", lossless=True),
    lambda: saved(textured(30), "WEBP", save_all=True, append_images=[textured(40).resize((30, 30))], duration=9),
)

TABLES = (Seed("table", "a.csv", _table), Seed("texts", "a.csv", _texts))

OBJECTS = (Seed("objects", "a.jsonl", _objects),)

PARQUETS = (
    Seed("Parquet", "a.parquet", lambda: parquet_of(_columns())),
    Seed("Parquet in groups", "a.parquet", lambda: parquet_of(_columns(), row_group_size=20, compression="zstd")),
    Seed("plain Parquet", "a.parquet",
         lambda: parquet_of(_columns(), use_dictionary=False, compression="none", data_page_version="2.0")),
)  # fmt: skip


@functools.cache
def picture(place: int) -> bytes:
    """The picture at this place among `PICTURES`."""
    return PICTURES[place]()
