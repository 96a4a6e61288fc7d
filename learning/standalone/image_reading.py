"""Images as squares of pixels, by Pillow and numpy alone: exported models read their inputs with this very file."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# A closed list, because some of Pillow's readers start other programs (EPS) or open whatever a header points to.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
READABLE = f"send one of {', '.join(FORMATS)}, complete and not corrupted"


class UnreadableImage(ValueError):
    """What is wrong with an image; `hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def decode(data: bytes, *, max_pixels: int = 50_000_000) -> Image.Image:
    """An upright 8-bit RGB image of the first frame; transparency is laid on white.

    The dimensions are checked before any pixel is decoded.

    Raises:
        UnreadableImage: broken, of an unsupported format or pixel type, or of more than `max_pixels` pixels.
    """
    too_large = f"the image has more than {max_pixels:,} pixels"
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(too_large, hint="send a smaller image") from error
    except Exception as error:  # on hostile bytes Pillow's readers raise nearly any type
        raise UnreadableImage("the bytes are not a readable image", hint=READABLE) from error
    if image.width * image.height > max_pixels:
        raise UnreadableImage(f"{too_large}: {image.width} x {image.height}", hint="send a smaller image")
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as the camera was held, in 8-bit RGB. Raises `UnreadableImage`."""
    try:
        return _rgb(_upright(image))
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow decodes here, and its readers raise nearly any type
        raise UnreadableImage(f"the image cannot be decoded: {error}", hint=READABLE) from error


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) bytes: the largest centred square of an RGB image, scaled. Raises `UnreadableImage`."""
    side = min(image.size)
    if side == 0:
        raise UnreadableImage("the image has no pixels")
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Cropping inside the resize keeps a sliver of 1 x 50,000 pixels from growing to 224 x 11 million.
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  a damaged EXIF block says nothing about the pixels
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        hint = "save the image with 8 or 16 bits"
        raise UnreadableImage("floating-point pixels have no defined brightness", hint=hint)
    if image.mode.startswith("I"):
        # Pillow clips integers to 255 instead of scaling them; files hold 16 of these bits.
        grey = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
