"""The pictures of one explained image: overlay, heat map, cut-out.

Ranks are taken on the map's own grid and only then enlarged to the picture: the cost does not grow with the photograph.
With rank share q of a pixel the cut-out keeps where q >= 1 - k; everything else is transparent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from aha_core.figures.overlay import blend, heat, rank_share, sign_colours

LONGEST = 1024  # pixels: pictures of larger photographs are made at this size


@dataclass(frozen=True)
class Pictures:
    """heat: the map alone, in 256 colours; cutout: RGBA."""

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
    height, width = image.shape[:2]
    share = rank_share(scores)
    large = enlarge(share, width, height)
    kept = np.where(large >= 1 - keep, np.uint8(255), np.uint8(0))
    cutout = Image.new("RGBA", (width, height))
    cutout.paste(Image.fromarray(image), mask=Image.fromarray(kept))  # no colours below the transparency
    if contrast:
        strength = enlarge(rank_share(np.abs(scores)), width, height)
        signed = np.where(enlarge(scores, width, height) >= 0, strength, -strength)
        colours, palette = _signed_palettes()
        index = Image.fromarray(((signed + 1) * 127.5).round().astype(np.uint8))
    else:
        strength, palette = large, _palette()
        colours, index = palette, Image.fromarray((large * 255).round().astype(np.uint8))
    shown = np.asarray(_in_palette(index, colours).convert("RGB"))
    return Pictures(blend(image, shown, strength), _in_palette(index, palette), cutout)


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
