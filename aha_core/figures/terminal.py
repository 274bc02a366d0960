"""A small map for the terminal: half blocks with two pixels in each, or shades where there are no colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from rich.text import Text

from aha_core.figures.overlay import rank_share
from aha_core.figures.single import enlarge

COLUMNS = 48
SHADES = " ░▒▓█"


def in_colour(picture: UInt8[np.ndarray, "H W 3"], columns: int = COLUMNS) -> Text:
    """The picture as lines of '▀', whose upper and lower halves have colours of their own."""
    lines = max(round(columns * picture.shape[0] / picture.shape[1] / 2), 1)
    small = np.asarray(Image.fromarray(picture).resize((columns, 2 * lines), Image.Resampling.BOX))
    text = Text()
    for above, below in zip(small[::2], small[1::2], strict=True):
        for upper, lower in zip(above.tolist(), below.tolist(), strict=True):
            text.append("▀", style="rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower))
        text.append("\n")
    return text


def in_shades(scores: Float[np.ndarray, "H W"], columns: int = COLUMNS) -> str:
    """The map's ranks in five shades, the most important fifth full. A character is twice as high as it is wide."""
    lines = max(round(columns * scores.shape[0] / scores.shape[1] / 2), 1)
    shares = rank_share(enlarge(scores, columns, lines))
    levels = np.minimum((shares * len(SHADES)).astype(int), len(SHADES) - 1)
    return "\n".join("".join(SHADES[level] for level in row) for row in levels) + "\n"
