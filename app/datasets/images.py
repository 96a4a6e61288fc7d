"""Images as untrusted bytes: checked before and while they are decoded. Also used on images sent for prediction."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from app.settings import Settings

#: Decoders that are not offered are not exposed to hostile bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_THUMBNAIL_SIDE = 96
_THUMBNAIL_MAX_PIXELS = 4_000_000


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


def check_image(data: bytes, settings: Settings) -> ImageInfo:
    """What the image is, once its size was checked and its first frame decoded whole.

    Raises:
        BadImage: it is too large, of no known kind, or damaged.
    """
    if len(data) > settings.max_image_bytes:
        raise BadImage("image_too_large", f"has {len(data)} bytes, more than {settings.max_image_bytes}")
    with _open(data) as image:
        width, height = image.size
        if width * height > settings.max_image_pixels:
            message = f"has {width} x {height} pixels, more than {settings.max_image_pixels} in all"
            raise BadImage("too_many_pixels", message)
        media_type = Image.MIME.get(image.format or "", "application/octet-stream")
        try:
            image.load()
        except Exception as error:
            raise BadImage("damaged_image", f"cannot be decoded: {str(error)[:200]}") from error
    return ImageInfo(media_type, width, height)


def media_type(data: bytes) -> str:
    """The media type of an image that was checked before."""
    with _open(data) as image:
        return Image.MIME.get(image.format or "", "application/octet-stream")


def thumbnail(data: bytes) -> str | None:
    """A small PNG as a data URL; None for an image that would take long to shrink."""
    with _open(data) as image:
        if image.width * image.height > _THUMBNAIL_MAX_PIXELS:
            return None
        image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        small = io.BytesIO()
        image.convert("RGBA" if "A" in image.getbands() else "RGB").save(small, "PNG")
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
