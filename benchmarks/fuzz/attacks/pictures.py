"""Builders of pictures byte by byte, where a library would only write honest ones."""

import struct
import zlib
from collections.abc import Sequence

from PIL import Image

from benchmarks.fuzz.attacks.building import saved

PNG_MARK = b"\x89PNG\r\n\x1a\n"
END = (b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_of(
    width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2, category: int = 0
) -> bytes:
    """A PNG with this header and these chunks."""
    header = struct.pack(">2L5B", width, height, depth, colour, 0, category, 0)
    return PNG_MARK + b"".join(chunk(kind, data) for kind, data in ((b"IHDR", header), *chunks))


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    return png_of(width, height, (b"IDAT", zlib.compress(bytes(1000))), END)


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one black pixel, with these chunks before its pixel."""
    return png_of(1, 1, *chunks, (b"IDAT", zlib.compress(bytes(4))), END)


def textured(side: int = 120) -> Image.Image:
    """A picture that does not compress well, always the same."""
    square = bytes((x * x * 7 + y * y * 13 + x * y * 3) % 251 for y in range(side) for x in range(3 * side))
    return Image.frombytes("RGB", (side, side), square)


def jpeg(*, progressive: bool = False) -> bytes:
    return saved(textured(), "JPEG", quality=90, progressive=progressive)


def jpeg_of_size(width: int, height: int, *, progressive: bool = False) -> bytes:
    """A small JPEG whose frame header says this size."""
    data = bytearray(jpeg(progressive=progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", height, width)
    return bytes(data)


def jpeg_with_frame(marker: int, *, precision: int = 8) -> bytes:
    """A JPEG of another kind of coding, by what its frame header says."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def jpeg_of_scans(n: int, side: int) -> bytes:
    """A progressive JPEG of side x side pixels in which its last scan stands `n` times."""
    data = jpeg_of_size(side, side, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * n + data[-2:]


def gif_of(
    screen: tuple[int, int], frame: tuple[int, int] | None, data: bytes = b"\x02\x4c\x01\x00", *, bits: int = 2
) -> bytes:
    """A GIF of two colours with one frame, or none; `data` are its sub-blocks."""
    head = b"GIF89a" + struct.pack("<2H3B", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    if frame is None:
        return head + b";"
    return head + b"," + struct.pack("<4HB", 0, 0, *frame, 0) + bytes([bits]) + data + b";"


def bmp_of(
    width: int, height: int, *, bits: int = 24, method: int = 0, colours: int = 0, header: int = 40, data: bytes = b""
) -> bytes:
    body = struct.pack("<L2i2H6L", header, width, height, 1, bits, method, len(data), 0, 0, colours, 0)
    return b"BM" + struct.pack("<L2HL", 54 + len(data), 0, 0, 54) + body + data


_SHORT, _LONG = 3, 4


def tiff_of(
    width: int,
    height: int,
    data: bytes,
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    method: int = 1,
    sample_format: int = 1,
    has_strips: bool = True,
    at: int | None = None,
) -> bytes:
    """A TIFF of one strip of `data`, which it says stands at `at`."""
    wide = struct.pack(f"<{len(bits)}H", *bits)
    start = 8 + len(wide)
    tags = [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, len(bits), bits[0] if len(bits) == 1 else 8),
        (259, _SHORT, 1, method),
        (262, _SHORT, 1, photometric),
        (277, _SHORT, 1, len(bits)),
        (278, _LONG, 1, height),
        (339, _SHORT, 1, sample_format),
    ]
    if has_strips:
        tags += [(273, _LONG, 1, start if at is None else at), (279, _LONG, 1, len(data))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<2H2L", *tag) for tag in sorted(tags)) + bytes(4)
    return b"II*\0" + struct.pack("<L", start + len(data)) + wide + data + directory


def webp_of(kind: bytes, data: bytes) -> bytes:
    """A WebP of one chunk."""
    inner = b"WEBP" + kind + struct.pack("<L", len(data)) + data
    return b"RIFF" + struct.pack("<L", len(inner)) + inner
