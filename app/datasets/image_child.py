"""Run as a process of its own: decodes hostile images one after the other, and says what each is or why it is none.

Speaks over the socket whose number it is given, and first says that it is ready. A request is the length of an image (8
bytes, little-endian) and the image; an answer is a line of JSON. Ends when the other side closes the socket.
"""

import json
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from io import BufferedRWPair
from typing import Any

from PIL import Image

from app.datasets.confinement import allow_cpu, confine
from app.datasets.images import BadImage, check_image

LENGTH = struct.Struct("<Q")
READY = b"ready\n"
#: Bytes for each pixel: the most that one has, the decoder's own copies, and its coefficients.
_PIXEL_BYTES = 16
_SPARE_BYTES = 256 * 2**20
_PLUGINS = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_image_bytes: int
    max_image_pixels: int
    seconds: int
    """Of computing, for one image."""

    @property
    def memory_bytes(self) -> int:
        return _PIXEL_BYTES * self.max_image_pixels + 4 * self.max_image_bytes + _SPARE_BYTES


def _answer(data: bytes, limits: Limits) -> dict[str, Any]:
    try:
        return asdict(check_image(data, limits))
    except BadImage as error:
        return {"code": error.code, "message": error.message}


def serve(stream: BufferedRWPair, limits: Limits) -> None:
    """Answers until nothing comes any more."""
    stream.write(READY)
    stream.flush()
    while len(head := stream.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        data = stream.read(length)
        allow_cpu(limits.seconds)
        stream.write(json.dumps(_answer(data, limits)).encode() + b"\n")
        stream.flush()


def main() -> None:
    limits = Limits(**json.loads(sys.argv[2]))
    for name in _PLUGINS:  # before the limits are set; Pillow would look for them among all it has
        import_module(f"PIL.{name}ImagePlugin")
    confine(limits.memory_bytes)
    # Pillow refuses twice this number; what it finds large before that is for our own check to judge.
    Image.MAX_IMAGE_PIXELS = (limits.max_image_pixels + 1) // 2
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        serve(stream, limits)


if __name__ == "__main__":
    main()
