"""What an image is checked for, whoever sends it."""

from typing import NamedTuple

import pytest
from PIL import Image

from app.datasets.findings import Findings
from app.datasets.image_headers import jpeg_scans
from app.datasets.images import BadImage, check_image, thumbnail
from app.errors import InvalidInput
from app.settings import Settings
from benchmarks.fuzz.attacks.building import saved
from benchmarks.fuzz.attacks.pictures import jpeg, jpeg_of_scans, textured, tiff_of
from tests.app.files import png


class Limits(NamedTuple):
    max_image_bytes: int
    max_image_pixels: int


LIMITS = Limits(10**6, 10**6)


def code_of(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(BadImage) as caught:
        check_image(data, limits)
    return caught.value.code


def test_scans_of_a_jpeg_are_counted() -> None:
    progressive = jpeg(progressive=True)
    usual = jpeg_scans(progressive)
    assert jpeg_scans(jpeg()) == 1
    assert 2 <= usual <= 20
    # The last scan stands there 30 times instead of once.
    assert jpeg_scans(jpeg_of_scans(30, 120)) == usual + 29


def test_scans_are_not_counted_in_notes_or_after_the_end() -> None:
    plain = jpeg()
    note = b"\xff\xe1\x00\x08\xff\xda\xff\xda\xff\xda"
    assert jpeg_scans(plain[:2] + note + plain[2:] + b"\xff\xda" * 9) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", png()])
def test_scans_of_other_bytes_are_few(data: bytes) -> None:
    assert jpeg_scans(data) <= 1


def test_image_may_have_many_scans_over_few_pixels() -> None:
    many = jpeg_of_scans(40, 120)
    scans = jpeg_scans(many)
    assert check_image(many, LIMITS).width == 120
    pixels = 120 * 120
    assert code_of(many, Limits(10**6, scans * pixels // 10 - 1)) == "too_many_scans"
    assert check_image(many, Limits(10**6, scans * pixels // 10 + 1)).height == 120


def test_image_is_refused_at_one_byte_or_pixel_too_many() -> None:
    data = png()
    assert check_image(data, Limits(len(data), 1_600)).width == 40
    assert code_of(data, Limits(len(data) - 1, 1_600)) == "image_too_large"
    assert code_of(data, Limits(len(data), 1_599)) == "too_many_pixels"


def test_image_of_numbers_is_refused() -> None:
    assert code_of(tiff_of(2, 2, bytes(16), bits=(32,), sample_format=3)) == "pixel_type"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I"])
def test_image_of_every_usual_kind_is_taken(mode: str) -> None:
    assert check_image(saved(Image.new(mode, (4, 4)), "TIFF"), LIMITS).media_type == "image/tiff"


def test_thumbnail_is_left_out_when_it_cannot_be_made() -> None:
    data = saved(textured(), "PNG")
    assert (thumbnail(data) or "").startswith("data:image/png;base64,")
    assert thumbnail(data[: len(data) // 2]) is None


def test_problems_are_counted_up_to_a_million(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.datasets.findings.MAX_COUNTED", 10)
    findings = Findings()
    for row in range(1, 10):
        findings.row(row, "empty_label", "is empty")
    with pytest.raises(InvalidInput, match="10 bad rows, at least 10 problems"):
        findings.row(10, "empty_label", "is empty")


def test_settings_are_limits_of_images() -> None:
    assert check_image(png(), Settings()).width == 40
