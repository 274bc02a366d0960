"""The pictures of one explained image: overlay, heat map, cut-out.

Ranks are taken on the map's own grid and only then enlarged to the picture: the cost does not grow with the photograph.
With rank share q of a pixel, in 255 levels, the cut-out keeps where q >= 1 - k; everything else is transparent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from aha_core.figures.overlay import LEVELS, OPACITY, blend_pictures, heat, rank_levels, sign_colours

LONGEST = 1024  # pixels: pictures of larger photographs are made at this size


@dataclass(frozen=True)
class Pictures:
    """heat: the map alone, in 256 colours; cutout: RGBA, with the photo's colours below the transparency, too."""

    overlay: UInt8[np.ndarray, "H W 3"]
    heat: Image.Image
    cutout: Image.Image


def pictures(
    image: UInt8[np.ndarray, "H W 3"], scores: Float[np.ndarray, "h w"], keep: float, contrast: bool = False
) -> Pictures:
    """All pictures of one map.

    Args:
        image: RGB, of any size and shape.
        scores: the map, larger = more important, on a grid of its own.
        keep: share k of the pixels in the cut-out, in (0, 1].
        contrast: colours by sign, as in `overlay.diverging`; the cut-out keeps what speaks for the first class.
    """
    photo = Image.fromarray(image)
    large = _large_ranks(scores, photo.size)
    cutout = photo.copy()
    cutout.putalpha(large.point([255 * (level >= LEVELS * (1 - keep)) for level in range(LEVELS + 1)]))
    if contrast:
        strength = _large_ranks(np.abs(scores), photo.size)
        positive = enlarge(scores, *photo.size) >= 0
        half = (np.asarray(strength).astype(np.int16) + 1) // 2  # in 0 .. 128
        index = Image.fromarray(np.where(positive, 127 + half, 128 - half).astype(np.uint8))
        colours, palette = _signed_palettes()
    else:
        strength, index, palette = large, large, _palette()
        colours = palette
    overlay = blend_pictures(photo, _in_palette(index, colours).convert("RGB"), strength.point(_opacities()))
    return Pictures(np.asarray(overlay), _in_palette(index, palette), cutout)


def _large_ranks(scores: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Image.Image:
    """Levels of the rank shares, enlarged bilinearly: in eight bits a quarter of the time of floating point."""
    return Image.fromarray(rank_levels(scores)).resize(size, Image.Resampling.BILINEAR)


@cache
def _opacities() -> list[int]:
    """Of the levels, as levels."""
    return [round(OPACITY * level**2 / LEVELS) for level in range(LEVELS + 1)]


def _in_palette(index: Image.Image, palette: UInt8[np.ndarray, "256 3"]) -> Image.Image:
    """The picture of 256 colours with these indices."""
    picture = index.copy()
    picture.putpalette(palette.tobytes())
    return picture


@cache
def _palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours of 256 rank shares."""
    return heat(np.linspace(0, 1, 256))


@cache
def _signed_palettes() -> tuple[UInt8[np.ndarray, "256 3"], UInt8[np.ndarray, "256 3"]]:
    """Of 256 signed rank shares from -1 to 1: the plain colours for an overlay, and from white for the map alone."""
    signed = np.linspace(-1, 1, 256)
    plain = sign_colours(signed)
    from_white = 255 + (plain.astype(np.float64) - 255) * np.abs(signed)[:, None]
    return plain, from_white.round().astype(np.uint8)


def enlarge(values: Float[np.ndarray, "h w"], width: int, height: int) -> Float[np.ndarray, "H W"]:
    """Bilinear, in float32."""
    resized = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def shown_size(image: Image.Image) -> Image.Image:
    """The image itself, or a copy of at most `LONGEST` pixels a side."""
    if max(image.size) <= LONGEST:
        return image
    scale = LONGEST / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
