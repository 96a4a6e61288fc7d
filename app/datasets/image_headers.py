"""How much work a JPEG is, read from its markers without decoding a pixel (ITU-T T.81, annex B)."""

import re

_JPEG = b"\xff\xd8"
#: A marker: neither a stuffed zero, a fill byte nor a restart, which stand inside of a scan.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = {0x01, 0xD8}


def jpeg_scans(data: bytes) -> int:
    """The scans of the first image of a JPEG file, each of which passes over all its pixels; 0 for other bytes."""
    if not data.startswith(_JPEG):
        return 0
    scans, at = 0, len(_JPEG)
    while found := _MARKER.search(data, at):
        kind, at = data[found.start() + 1], found.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        if kind not in _WITHOUT_LENGTH:
            # A wrong length leads to wherever it leads the decoder.
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans
