"""Pictures that lie about their size, stop halfway, or are of kinds that nobody should decode for a stranger."""

import struct
import zlib

from benchmarks.fuzz.attacks.building import saved, two_classes, zip_of
from benchmarks.fuzz.attacks.cases import Attack, Make
from benchmarks.fuzz.attacks.pictures import (
    END,
    PNG_MARK,
    bmp_of,
    gif_of,
    jpeg,
    jpeg_of_scans,
    jpeg_of_size,
    jpeg_with_frame,
    png_header,
    png_of,
    textured,
    tiff_of,
    webp_of,
    with_chunks,
)

_ENTRY = "cat/9.png"
_BOMB, _DAMAGED, _NONE, _COLOURS = "too_many_pixels", "damaged_image", "not_an_image", "pixel_type"
_MEGABYTE = 2**20


def in_archive(picture: bytes) -> bytes:
    """An honest archive and this picture as `cat/9.png`."""
    return zip_of(two_classes(1) | {_ENTRY: picture})


def _bad(title: str, code: str, make: Make) -> Attack:
    return Attack(f"image: {title}", lambda: in_archive(make()), code, "data.zip", entry=_ENTRY)


def _packed(kind: bytes, before: bytes, size: int) -> bytes:
    """A PNG with a chunk of `kind` that inflates to `size` zeros."""
    return with_chunks((kind, before + zlib.compress(bytes(size), 9)))


def _half(kind: str) -> bytes:
    data = saved(textured(), kind)
    return data[: len(data) // 2]


PNGS = (
    _bad("PNG of 2,500 million pixels", _BOMB, lambda: png_header(50_000, 50_000)),
    _bad("PNG of 81 million pixels", _BOMB, lambda: png_header(9_000, 9_000)),
    _bad("PNG of all that 31 bits can", _BOMB, lambda: png_header(2**31 - 1, 2**31 - 1)),
    _bad("PNG of all that 32 bits can", _BOMB, lambda: png_header(2**32 - 1, 2**32 - 1)),
    _bad("PNG as wide as an earth", _BOMB, lambda: png_header(60_000_001, 1)),
    _bad("PNG without width", _NONE, lambda: png_header(0, 10)),
    _bad("half a PNG", _DAMAGED, lambda: _half("PNG")),
    _bad("PNG header alone", _NONE, lambda: png_of(10, 10)),
    _bad("PNG mark alone", _NONE, lambda: PNG_MARK),
    _bad("PNG without pixels", _DAMAGED, lambda: png_of(10, 10, END)),
    _bad("PNG with garbage for pixels", _DAMAGED, lambda: png_of(10, 10, (b"IDAT", b"\xff" * 99), END)),
    _bad("PNG filter that is none", _DAMAGED, lambda: png_of(1, 1, (b"IDAT", zlib.compress(b"\x09\1\1\1")), END)),
    _bad("PNG of three bits", _NONE, lambda: png_of(1, 1, (b"IDAT", zlib.compress(bytes(4))), END, depth=3)),
    _bad("PNG colour that is none", _NONE, lambda: png_of(1, 1, (b"IDAT", zlib.compress(bytes(4))), END, colour=9)),
    _bad("PNG filter category", _NONE, lambda: png_of(1, 1, (b"IDAT", zlib.compress(bytes(4))), END, category=1)),
    _bad("PNG with a wrong checksum", _NONE, lambda: png_header(10, 10).replace(b"IHDR\0", b"IHDR\1", 1)),
    _bad("PNG chunk that never ends", _NONE, lambda: PNG_MARK + struct.pack(">L", 2**31 - 1) + b"IHDR" + bytes(40)),
    _bad("PNG text of 20 MB", _NONE, lambda: _packed(b"zTXt", b"key\0\0", 20 * _MEGABYTE)),
    _bad("PNG translated text of 20 MB", _NONE, lambda: _packed(b"iTXt", b"key\0\1\0\0\0", 20 * _MEGABYTE)),
    _bad("PNG colour profile of 20 MB", _NONE, lambda: _packed(b"iCCP", b"key\0\0", 20 * _MEGABYTE)),
    _bad("PNG of 70 texts of a megabyte", _NONE,
         lambda: with_chunks(*[(b"zTXt", b"key\0\0" + zlib.compress(bytes(_MEGABYTE - 1), 9))] * 70)),
)  # fmt: skip

JPEGS = (
    _bad("JPEG of 4,000 million pixels", _BOMB, lambda: jpeg_of_size(65_500, 65_500)),
    _bad("JPEG of 56 million pixels", _BOMB, lambda: jpeg_of_size(7_500, 7_500)),
    _bad("JPEG without height", _NONE, lambda: jpeg_of_size(10, 0)),
    _bad("half a JPEG", _DAMAGED, lambda: _half("JPEG")),
    _bad("JPEG of 2,000 scans", "too_many_scans", lambda: jpeg_of_scans(2_000, 5_000)),
    _bad("JPEG of 25 scans over the most pixels", "too_many_scans", lambda: jpeg_of_scans(25, 7_000)),
    _bad("JPEG without tables", _DAMAGED, lambda: jpeg().replace(b"\xff\xdb", b"\xff\xe9")),
    _bad("JPEG of nothing", _NONE, lambda: b"\xff\xd8\xff\xd9"),
    _bad("JPEG of garbage", _NONE, lambda: b"\xff\xd8\xff" + bytes(range(200))),
    _bad("JPEG segment that never ends", _NONE, lambda: b"\xff\xd8\xff\xe0\xff\xffJFIF\0"),
    _bad("JPEG without loss", _DAMAGED, lambda: jpeg_with_frame(0xC3)),
    _bad("JPEG of twelve bits", _NONE, lambda: jpeg_with_frame(0xC1, precision=12)),
    _bad("JPEG without a scan", _DAMAGED, lambda: (whole := jpeg())[: whole.index(b"\xff\xda")]),
)

GIFS = (
    _bad("GIF screen of 4,000 million pixels", _BOMB, lambda: gif_of((65_535, 65_535), (1, 1))),
    _bad("GIF frame of 4,000 million pixels", _BOMB, lambda: gif_of((1, 1), (65_535, 65_535))),
    _bad("GIF without a frame", _NONE, lambda: gif_of((1, 1), None)),
    _bad("GIF of thirteen bits", _DAMAGED, lambda: gif_of((9, 9), (9, 9), bits=13)),
    _bad("GIF cut in its header", _NONE, lambda: b"GIF89a\1"),
    _bad("half a GIF", _DAMAGED, lambda: _half("GIF")),
)

BMPS = (
    _bad("BMP of 2,500 million pixels", _BOMB, lambda: bmp_of(50_000, 50_000)),
    _bad("BMP of negative width", _BOMB, lambda: bmp_of(-5, 5)),
    _bad("half a BMP", _DAMAGED, lambda: _half("BMP")),
    _bad("BMP with a header that is none", _NONE, lambda: bmp_of(5, 5, header=77)),
    _bad("BMP of seven bits", _NONE, lambda: bmp_of(5, 5, bits=7)),
    _bad("BMP of a compression that is none", _NONE, lambda: bmp_of(5, 5, method=9)),
    _bad("BMP of 4,000 million colours", _NONE, lambda: bmp_of(5, 5, bits=8, colours=2**32 - 1)),
    _bad("BMP without pixels", _DAMAGED, lambda: bmp_of(5, 5)),
)

TIFFS = (
    _bad("TIFF of 2,500 million pixels", _BOMB, lambda: tiff_of(50_000, 50_000, b"x")),
    _bad("TIFF of all that 32 bits can", _BOMB, lambda: tiff_of(2**32 - 1, 2**32 - 1, b"x")),
    _bad("TIFF of floating-point numbers", _COLOURS,
         lambda: tiff_of(2, 2, bytes(16), bits=(32,), sample_format=3)),
    _bad("TIFF strip beyond its end", _DAMAGED, lambda: tiff_of(9, 9, bytes(81), at=10**9)),
    _bad("TIFF with too few pixels", _DAMAGED, lambda: tiff_of(99, 99, bytes(5))),
    _bad("TIFF without pixels", _NONE, lambda: tiff_of(9, 9, b"", has_strips=False)),
    _bad("TIFF of a compression that is none", _NONE, lambda: tiff_of(9, 9, bytes(81), method=4_242)),
    _bad("TIFF deflated into garbage", _DAMAGED, lambda: tiff_of(9, 9, b"\xff" * 81, method=8)),
    _bad("TIFF with garbage in LZW", _DAMAGED, lambda: tiff_of(9, 9, b"\xff" * 81, method=5)),
    _bad("TIFF directory beyond its end", _NONE, lambda: b"II*\0" + struct.pack("<L", 10**6) + bytes(50)),
    _bad("TIFF directory in its own header", _NONE, lambda: b"II*\0" + bytes(4)),
    _bad("big TIFF of garbage", _NONE, lambda: b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(50)),
)  # fmt: skip

WEBPS = (
    _bad("WebP canvas of 16 million x 16 million", _BOMB, lambda: webp_of(b"VP8X", bytes(4) + b"\xff" * 6)),
    _bad("lossy WebP of 268 million pixels", _BOMB,
         lambda: webp_of(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<2H", 16_383, 16_383) + bytes(40))),
    _bad("lossless WebP of 268 million pixels", _BOMB,
         lambda: webp_of(b"VP8L", b"\x2f" + struct.pack("<L", 0x0FFFFFFF) + bytes(40))),
    _bad("WebP of garbage", _NONE, lambda: webp_of(b"VP8 ", b"\xff" * 60)),
    _bad("WebP mark alone", _NONE, lambda: webp_of(b"VP8L", b"")),
)  # fmt: skip

#: First bytes of kinds whose decoders are not offered. PostScript would even be run.
_FOREIGN = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "PostScript in DOS": b"\xc5\xd0\xd3\xc6" + bytes(28),
    "metafile": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "icon": b"\0\0\1\0\1\0" + bytes(40),
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "PCX": b"\x0a\x05\x01\x08" + bytes(130),
    "DirectDraw": b"DDS \x7c\0\0\0" + bytes(130),
    "FITS": b"SIMPLE  =                    T" + b" " * 2_850,
    "Apple icon": b"icns\0\0\0\x10" + bytes(8),
    "portable pixmap": b"P6 99999 99999 255\n" + bytes(30),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(40),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
    "SGI": b"\x01\xda\x01\x01" + bytes(520),
    "X bitmap": b"#define x_width 9\n#define x_height 9\nstatic char x_bits[] = {0};\n",
    "FLI film": bytes(4) + b"\x11\xaf" + bytes(130),
}


def _foreign(title: str, data: bytes) -> Attack:
    return _bad(f"{title} called a PNG", _NONE, lambda: data)


FOREIGN = tuple(_foreign(title, data) for title, data in _FOREIGN.items())

ATTACKS = (*PNGS, *JPEGS, *GIFS, *BMPS, *TIFFS, *WEBPS, *FOREIGN)
