"""Builders of honest files for uploads."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CSV = b"text,label\nI like this film a lot,positive\nwhat a waste of time,negative\nreally quite good fun,positive\n"


def png(colour: tuple[int, int, int] = (200, 30, 30), side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def two_classes(n: int = 3) -> dict[str, bytes]:
    """Entries of an archive with `n` different images in each of two classes."""
    cats = {f"cat/{i}.png": png((200, i, 0)) for i in range(n)}
    return cats | {f"dog/{i}.png": png((0, i, 200)) for i in range(n)}


def parquet_of(columns: Mapping[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, **options)
    return buffer.getvalue()
