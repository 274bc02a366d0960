"""Images with their maps as one figure: what a notebook shows.

>>> figure = show(images, maps, titles=["cat", "dog"])
>>> figure.savefig("maps.png")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from aha_core.figures.overlay import diverging, overlay
from aha_core.figures.style import INK, MUTED, new_figure, picture

_CELL = 1.9  # inches


def to_uint8(images: Float[Tensor, "B 3 H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Images in [0, 1] as 8-bit RGB arrays."""
    pixels: np.ndarray = images.detach().float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def show(
    images: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    titles: Sequence[str] | None = None,
    contrast: bool = False,
) -> Figure:
    """One row per image: the image, and its map over it.

    Args:
        images: in [0, 1].
        maps: of any explainer or baseline, larger = more important.
        titles: one per image, for instance the explained class.
        contrast: maps of `Explainer.contrast`: colours by sign.

    Raises ValueError for numbers or sizes that differ.
    """
    if len(maps) != len(images) or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"{len(images)} images, {len(maps)} maps, {len(images if titles is None else titles)} titles")
    figure = new_figure(2 * _CELL + 0.1, (_CELL + 0.2) * len(images) + 0.3)
    grid = figure.subplots(len(images), 2, squeeze=False)
    over = diverging if contrast else overlay
    scores: np.ndarray = maps.detach().float().cpu().numpy()
    for row, image in enumerate(to_uint8(images)):
        left = picture(grid[row, 0], image)
        if titles is not None:
            left.set_xlabel(titles[row], fontsize=8.5, color=INK, labelpad=2, parse_math=False)
        picture(grid[row, 1], over(image, scores[row, 0]))
    for column, head in enumerate(("image", "contrast" if contrast else "map")):
        grid[0, column].set_title(head, fontsize=8.5, color=MUTED)
    return figure
