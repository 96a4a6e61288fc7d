import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from learning.encoders.image import ImageEncoder, decode_image
from learning.encoders.lite0 import load_lite0
from learning.errors import InvalidData


def picture(seed: int, width: int = 96, height: int = 80) -> Image.Image:
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image)[0, 0].tolist())


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return load_lite0()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def features(encoder: ImageEncoder, pictures) -> torch.Tensor:
    return encoder.encode(pictures)


def test_image_encoder_returns_unit_float32_rows_when_encoding(features):
    assert features.shape == (5, 1280)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=1), torch.ones(5), atol=1e-5)


def test_image_encoder_gives_the_known_features_when_given_a_fixed_gradient(encoder):
    ramp = np.linspace(0, 255, 224, dtype=np.uint8)
    gradient = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(90)), axis=2))
    largest = encoder.encode([gradient])[0].topk(6)
    assert largest.indices.tolist() == [113, 897, 1006, 930, 989, 1157]
    assert torch.allclose(largest.values, torch.tensor([0.3399, 0.3189, 0.2893, 0.2155, 0.2044, 0.1878]), atol=1e-3)


def test_image_encoder_does_not_depend_on_batch_mates_when_batches_differ(encoder, pictures, features):
    assert torch.allclose(encoder.encode(pictures, batch_size=2), features, atol=1e-5)


def test_image_encoder_keeps_the_order_when_inputs_are_permuted(encoder, pictures, features):
    assert torch.allclose(encoder.encode(pictures[::-1]), features.flip(0), atol=1e-5)


def test_image_encoder_treats_bytes_like_pil_images_when_both_are_given(encoder, pictures, features):
    assert torch.equal(encoder.encode([encoded(image) for image in pictures]), features)


def test_image_encoder_reports_rows_done_when_progress_is_given(encoder, pictures):
    done: list[int] = []
    encoder.encode(pictures, batch_size=2, progress=done.append)
    assert done == [2, 4, 5]


def test_image_encoder_returns_no_rows_when_given_none(encoder):
    assert encoder.encode([]).shape == (0, 1280)


def test_image_features_are_usable_in_autograd_when_returned(features):
    weight = torch.zeros(1280, requires_grad=True)
    (features @ weight).sum().backward()
    assert weight.grad is not None


def test_image_encoder_equals_the_unfolded_network_when_batch_norm_is_folded(encoder, pictures, features):
    unfolded = load_lite0(fold=False)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in unfolded.module.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.module.modules())
    assert torch.allclose(unfolded.encode(pictures), features, atol=1e-4)


def test_image_encoder_leaves_the_global_generator_alone_when_loaded():
    before = torch.get_rng_state()
    load_lite0()
    assert torch.equal(torch.get_rng_state(), before)


def test_image_encoder_prints_nothing_when_used(pictures, capfd):
    load_lite0().encode(pictures[:1])
    assert capfd.readouterr() == ("", "")


def test_image_encoder_revision_is_short_hex_and_stable_when_loaded_twice(encoder):
    assert len(encoder.revision) == 12
    assert int(encoder.revision, 16) >= 0
    assert encoder.revision == load_lite0(fold=False).revision


def test_image_encoder_names_the_row_when_an_input_is_broken(encoder, pictures):
    with pytest.raises(InvalidData, match="image 4: the bytes are not a readable image"):
        encoder.encode([*pictures[:3], b"nonsense"], batch_size=2)


def test_image_encoder_names_the_type_when_an_input_is_no_image(encoder):
    with pytest.raises(InvalidData, match="image 1: expected a PIL image or encoded bytes, got str"):
        encoder.encode(["photo.png"])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (20_000, 1), (1, 20_000)])
def test_image_encoder_gives_finite_features_when_an_image_has_an_extreme_shape(encoder, size):
    assert encoder.encode([Image.new("RGB", size, "red")]).isfinite().all()


def test_image_pixels_are_the_centred_square_when_an_image_is_wide(encoder):
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste("white", (150, 0, 250, 100))
    # Only the black border may leak in, through the interpolation at the very edge.
    assert (encoder.pixels([wide])[:, :, :, 2:-2] == 1.0).all()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_decode_image_reads_a_plain_colour_when_given_any_supported_format(image_format):
    decoded = decode_image(encoded(Image.new("RGB", (16, 16), (200, 40, 90)), image_format))
    assert decoded.mode == "RGB"
    assert np.allclose(colour(decoded), (200, 40, 90), atol=6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "PA", "I;16", "I"])
def test_decode_image_returns_rgb_when_pixels_are_stored_otherwise(mode):
    image_format = {"CMYK": "TIFF", "PA": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    assert decode_image(encoded(Image.new(mode, (4, 4)), image_format)).mode == "RGB"


def test_decode_image_lays_transparency_on_white_when_there_is_alpha():
    assert colour(decode_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))))) == (255, 255, 255)


def test_decode_image_lays_transparency_on_white_when_a_palette_entry_is_transparent():
    assert colour(decode_image(encoded(Image.new("P", (4, 4), 0), transparency=0))) == (255, 255, 255)


def test_decode_image_scales_brightness_when_pixels_have_16_bits():
    grey = Image.fromarray(np.full((4, 4), 128 * 257, dtype=np.uint16))
    assert colour(decode_image(encoded(grey))) == (128, 128, 128)


def test_decode_image_turns_the_picture_upright_when_exif_says_so():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif)).size == (10, 30)


def test_decode_image_returns_the_first_frame_when_the_image_is_animated():
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert colour(decode_image(animated)) == (255, 0, 0)


def test_decode_image_refuses_when_there_are_more_pixels_than_allowed():
    with pytest.raises(InvalidData, match="more than 100 pixels: 20 x 10"):
        decode_image(encoded(Image.new("RGB", (20, 10))), max_pixels=100)


def test_decode_image_refuses_before_decoding_when_a_header_promises_a_bomb():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 0) + b"IDAT" + bytes(4)
    with pytest.raises(InvalidData, match="more than 50,000,000 pixels"):
        decode_image(bomb)


def test_decode_image_refuses_when_the_file_is_truncated():
    whole = encoded(picture(0, 400, 300), "JPEG")
    with pytest.raises(InvalidData, match="cannot be decoded"):
        decode_image(whole[: len(whole) // 2])


def test_decode_image_refuses_when_the_format_can_run_programs():
    with pytest.raises(InvalidData, match="not a readable image"):
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))


def test_decode_image_refuses_when_pixels_are_floating_point():
    with pytest.raises(InvalidData, match="floating-point"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=60, deadline=None)
@given(
    image_format=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
    cut=st.integers(0, 400),
    flips=st.dictionaries(st.integers(0, 300), st.integers(0, 255), max_size=8),
)
def test_decode_image_returns_rgb_or_invalid_data_when_bytes_are_damaged(image_format, cut, flips):
    data = bytearray(encoded(picture(1, 12, 9), image_format))
    for position, value in flips.items():
        data[position % len(data)] = value
    with contextlib.suppress(InvalidData):
        assert decode_image(bytes(data[: len(data) - cut % 40])).mode == "RGB"
