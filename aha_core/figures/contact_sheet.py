"""Many pictures with captions on pages of one size: what a folder of explained images looks like at a glance."""

from __future__ import annotations

from bisect import bisect_right
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

    def add(self, picture: UInt8[np.ndarray, "H W 3"], caption: Sequence[str]) -> Iterator[tuple[int, Page]]:
        """Take one picture; gives a page's number and what draws it when it is full: the caller may draw in a thread.

        Args:
            caption: at most two lines.
        """
        self._cells.append((Image.fromarray(thumbnail(picture)), caption))
        if len(self._cells) == COLUMNS * ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[int, Page]]:
        """The last page, where there is something on it."""
        if self._cells:
            cells, self._cells = self._cells, []
            self._pages += 1
            yield self._pages, Page(cells)


class Page:
    """Pictures with captions that are drawn on demand."""

    def __init__(self, cells: list[tuple[Image.Image, Sequence[str]]]) -> None:
        self._cells = cells

    def draw(self) -> Image.Image:
        cells = self._cells
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
        return page


def thumbnail(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at the size that it has on a sheet; itself where it is not larger."""
    small = Image.fromarray(picture)
    small.thumbnail((CELL, CELL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened at its end to the width of a cell."""
    if font.getlength(text) <= CELL:
        return text
    fitting = bisect_right(range(1, len(text)), True, key=lambda count: font.getlength(f"{text[:count]}…") > CELL)
    return f"{text[:fitting]}…"
