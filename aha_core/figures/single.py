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
    """overlay: RGB; heat: the map alone, 256 colours; cutout: RGBA."""

    overlay: UInt8[np.ndarray, "H W 3"]
    heat: Image.Image
    cutout: UInt8[np.ndarray, "H W 4"]


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
    kept = (large >= 1 - keep).astype(np.uint8)[..., None]
    cutout = np.concatenate([image * kept, 255 * kept], axis=2)  # no colours below the transparency
    if contrast:
        strength = enlarge(rank_share(np.abs(scores)), width, height)
        signed = np.where(enlarge(scores, width, height) >= 0, strength, -strength)
        colours, palette = _signed_palettes()
        index = ((signed + 1) * 127.5).round().astype(np.uint8)
    else:
        strength, palette = large, _palette()
        colours, index = palette, (large * 255).round().astype(np.uint8)
    alone = Image.fromarray(index)
    alone.putpalette(palette.round().astype(np.uint8).tobytes())
    return Pictures(blend(image, colours.astype(np.float32).take(index, axis=0), strength), alone, cutout)


@cache
def _palette() -> Float[np.ndarray, "256 3"]:
    """Colours of 256 rank shares."""
    return heat(np.linspace(0, 1, 256))


@cache
def _signed_palettes() -> tuple[Float[np.ndarray, "256 3"], Float[np.ndarray, "256 3"]]:
    """Of 256 signed rank shares from -1 to 1: the plain colours for an overlay, and from white for the map alone."""
    signed = np.linspace(-1, 1, 256)
    plain = sign_colours(signed)
    return plain, 255 + (plain - 255) * np.abs(signed)[:, None]


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
