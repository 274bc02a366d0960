"""Every kind of file becomes 8-bit RGB with the right values, or an error that names it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from aha_core.data.decode import decode, image_extensions, read_image, to_rgb
from aha_core.errors import DataError


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_grey_becomes_equal_channels():
    assert pixel(decode(encode(Image.new("L", (2, 2), 77), "PNG"), "a")) == (77, 77, 77)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(value, expected):
    data = encode(Image.fromarray(np.full((2, 2), value, np.uint16)), "PNG")
    assert pixel(decode(data, "a")) == (expected,) * 3


def test_float_grey_in_0_to_1_and_an_error_beyond():
    assert pixel(decode(encode(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"), "a")) == (128,) * 3
    for bad in (2.0, np.nan):
        with pytest.raises(DataError, match="expected 0 to 1"):
            decode(encode(Image.fromarray(np.full((2, 2), bad, np.float32)), "TIFF"), "a")


def test_transparency_is_composited_on_white():
    assert pixel(decode(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG"), "a")) == (255, 255, 255)
    assert pixel(decode(encode(Image.new("LA", (2, 2), (0, 0)), "PNG"), "a")) == (255, 255, 255)
    half = pixel(decode(encode(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"), "a"))
    assert half == (127, 127, 127)


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    decoded = decode(encode(image, "PNG", transparency=1), "a")
    assert pixel(decoded, 0) == (10, 20, 30)
    assert pixel(decoded, 1) == (255, 255, 255)


def test_cmyk_and_bilevel():
    assert pixel(decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), "a")) == (255, 0, 0)
    assert pixel(decode(encode(Image.new("1", (2, 2), 1), "PNG"), "a")) == (255, 255, 255)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(decode(data, "a")) == (255, 0, 0)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (4, 2), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode(encode(image, "PNG", exif=exif), "a").size == (2, 4)


def test_truncated_and_foreign_files_are_named():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    with pytest.raises(DataError, match=r"cat\.jpg.*truncated"):
        decode(data[: len(data) // 2], "cat.jpg")
    with pytest.raises(DataError, match=r"notes\.png: not an image that can be read"):
        decode(b"hello", "notes.png")
    with pytest.raises(DataError, match=r"empty\.png"):
        decode(b"", "empty.png")


def test_decompression_bombs_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "bomb.png"
    file.write_bytes(encode(Image.new("L", (40, 40)), "PNG"))
    for limit in (1000, 100):  # Pillow warns above the limit, raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"bomb\.png: more than \d+ pixels"):
            read_image(file)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.png: No such file"):
        read_image(tmp_path / "gone.png")


def test_extensions_exclude_formats_that_run_programs():
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif"} <= image_extensions()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".mpg"} & image_extensions()


def test_unknown_range_of_32_bit_grey():
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        to_rgb(Image.fromarray(np.full((2, 2), 70000, np.int32)))
