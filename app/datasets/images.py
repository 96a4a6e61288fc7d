"""Images as untrusted bytes: checked before and while they are decoded. Also used on images sent for prediction.

Imports nothing of the service but its neighbours without imports: the process that decodes uploads must start fast.
"""

import base64
import io
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from app.datasets.image_headers import jpeg_scans

#: Decoders that are not offered are not exposed to hostile bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: Cameras write about ten scans; beyond this, all scans together may pass over ten times the most pixels.
_USUAL_SCANS, _PASSES = 20, 10
_THUMBNAIL_SIDE = 96
_THUMBNAIL_MAX_PIXELS = 4_000_000


class ImageLimits(Protocol):
    """The part of the settings that images are checked against."""

    @property
    def max_image_bytes(self) -> int: ...
    @property
    def max_image_pixels(self) -> int: ...


@dataclass(frozen=True)
class ImageInfo:
    media_type: str
    width: int
    height: int


class BadImage(Exception):
    """What is wrong with an image: a code, and a sentence that continues its name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("too_many_pixels", "declares far too many pixels") from None
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise BadImage("not_an_image", f"is not an image of a known kind ({', '.join(FORMATS)})") from error


def check_image(data: bytes, limits: ImageLimits) -> ImageInfo:
    """What the image is, once `decoded` had no complaint. Raises `BadImage`."""
    image = decoded(data, limits)
    return ImageInfo(Image.MIME.get(image.format or "", "application/octet-stream"), *image.size)


def decoded(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image with its first frame decoded whole, once its size was checked.

    Raises:
        BadImage: it is too large, of no known kind, damaged, or of pixels that are no colours.
    """
    if len(data) > limits.max_image_bytes:
        raise BadImage("image_too_large", f"has {len(data)} bytes, more than {limits.max_image_bytes}")
    image = _open(data)  # left open: what turns it upright may yet read its tags
    width, height = image.size
    _check_pixels(width, height, limits)
    _check_scans(data, width * height, limits)
    try:
        image.load()
    except Exception as error:
        raise BadImage("damaged_image", f"cannot be decoded: {_said(error)}") from error
    _check_colours(image)
    return image


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_image_pixels:
        message = f"has {width} x {height} pixels, more than {limits.max_image_pixels} in all"
        raise BadImage("too_many_pixels", message)
    if width * height == 0:
        raise BadImage("damaged_image", "has no pixels")


def _check_scans(data: bytes, pixels: int, limits: ImageLimits) -> None:
    """A few bytes begin another scan, and each scan takes as long as decoding the whole image once more."""
    scans = jpeg_scans(data)
    if scans > _USUAL_SCANS and scans * pixels > _PASSES * limits.max_image_pixels:
        raise BadImage("too_many_scans", f"has {scans} scans, too many for its {pixels} pixels")


def _check_colours(image: Image.Image) -> None:
    """Refuses what no encoder can look at: floating-point pixels, and colours without a way to red, green and blue."""
    refusal = BadImage("pixel_type", f"has pixels of the kind {image.mode}, which are not read")
    if image.mode == "F":
        raise refusal
    if image.mode.startswith("I"):
        return  # integers are scaled, not converted
    try:
        image.crop((0, 0, 1, 1)).convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception as error:
        raise refusal from error


def _said(error: Exception) -> str:
    """What a library says of its trouble, as text that can be stored and sent."""
    return (str(error)[:200] or type(error).__name__).encode(errors="replace").decode()


def media_type(data: bytes) -> str:
    """The media type of an image that was checked before."""
    with _open(data) as image:
        return Image.MIME.get(image.format or "", "application/octet-stream")


def thumbnail(data: bytes) -> str | None:
    """A small PNG as a data URL; None for an image that would take long to shrink, or cannot be."""
    with _open(data) as image:
        if image.width * image.height > _THUMBNAIL_MAX_PIXELS:
            return None
        small = io.BytesIO()
        try:
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            image.convert("RGBA" if "A" in image.getbands() else "RGB").save(small, "PNG")
        except Exception:  # noqa: BLE001 - it was decoded when it came, but shrinking takes another way through Pillow
            return None
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
