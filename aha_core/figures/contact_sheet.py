"""Many pictures with captions on pages of one size: what a folder of explained images looks like at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS = 6, 8
CELL, CAPTION, MARGIN = 168, 30, 8  # pixels: side of a picture, height of its two lines, space around it
_FONT_SIZE = 11


class ContactSheet:
    """Collects small pictures; a full page is handed over and forgotten, so that memory stays flat."""

    def __init__(self) -> None:
        self._cells: list[tuple[Image.Image, Sequence[str]]] = []
        self._pages = 0

    def add(self, picture: UInt8[np.ndarray, "H W 3"], caption: Sequence[str]) -> Iterator[tuple[int, Image.Image]]:
        """Take one picture; gives (number, page) when a page is full.

        Args:
            caption: at most two lines.
        """
        small = Image.fromarray(picture)
        small.thumbnail((CELL, CELL), Image.Resampling.BILINEAR)
        self._cells.append((small, caption))
        if len(self._cells) == COLUMNS * ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, Image.Image]]:
        """The last page, where there is something on it."""
        if not self._cells:
            return
        cells, self._cells = self._cells, []
        self._pages += 1
        columns, rows = min(len(cells), COLUMNS), -(-len(cells) // COLUMNS)
        page = Image.new(
            "RGB", (columns * (CELL + MARGIN) + MARGIN, rows * (CELL + CAPTION + MARGIN) + MARGIN), "white"
        )
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT_SIZE)
        for place, (small, caption) in enumerate(cells):
            left = MARGIN + place % COLUMNS * (CELL + MARGIN)
            top = MARGIN + place // COLUMNS * (CELL + CAPTION + MARGIN)
            page.paste(small, (left + (CELL - small.width) // 2, top + (CELL - small.height) // 2))
            for line, text in enumerate(caption[:2]):
                draw.text((left, top + CELL + 1 + 14 * line), _fit(text, font), fill="#1f2430", font=font)
        yield self._pages, page


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened at its end to the width of a cell."""
    if font.getlength(text) <= CELL:
        return text
    while text and font.getlength(f"{text}…") > CELL:
        text = text[:-1]
    return f"{text}…"
