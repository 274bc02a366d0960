"""Any raster file to 8-bit RGB, with every conversion spelled out.

EXIF orientation is applied; animations give their first frame; transparency is composited on white; 16-bit
grey is scaled by 255/65535 (Pillow's own conversion clips it); grey, palette, CMYK and LAB become RGB. Formats that
run other programs (EPS, WMF) are not read.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from aha_core.errors import DataError

T = TypeVar("T")
FORMATS: tuple[str, ...] = (
    "AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "TGA", "TIFF",
    "WEBP", "XBM", "XPM",
)  # fmt: skip


def image_extensions() -> frozenset[str]:
    """File name endings, with the dot and in lower case, of the formats that are read."""
    Image.init()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Refuse images of more pixels than `PIL.Image.MAX_IMAGE_PIXELS`. Not for use inside threads: around them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes, name: str) -> Image.Image:
    """Decode the bytes of one image file.

    Raises DataError naming the file when it is truncated, no image, or of an unsupported kind.
    """
    return _decoded(data, name, to_rgb)


def decode_values(data: bytes, name: str) -> Shaped[np.ndarray, "H W"]:
    """The values that a file of one channel stores: grey, palette indices or bits; upright.

    Raises DataError as `decode` does, and for several channels.
    """
    return _decoded(data, name, _one_channel)


def _decoded(data: bytes, name: str, convert: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return convert(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a possible decompression bomb"
        ) from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise DataError(f"{name}: {error or type(error).__name__}") from error


def read_image(file: Path) -> Image.Image:
    """Read one image file as 8-bit RGB. Raises DataError naming the file when it is missing or unreadable."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    with bombs_are_errors():
        return decode(data, str(file))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB. Raises ValueError for values without a defined white."""
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    if image.mode.startswith("I"):
        return _grey(np.asarray(image), white=65535)
    if image.mode == "F":
        return _grey(np.asarray(image), white=1)
    return image.convert("RGB")


def _one_channel(image: Image.Image) -> np.ndarray:
    if len(image.getbands()) != 1:
        raise ValueError(f"mode {image.mode}, expected one channel: grey, palette or 1-bit")
    return np.asarray(image)


def _grey(values: np.ndarray, white: int) -> Image.Image:
    if values.size and not (values.min() >= 0 and values.max() <= white):  # NaN fails both
        raise ValueError(
            f"grey values from {values.min()} to {values.max()}, expected 0 to {white} for {values.dtype} pixels"
        )
    return Image.fromarray((values * (255.0 / white)).round().astype(np.uint8)).convert("RGB")
