"""Object regions: boxes as masks, boxes around masks, and whether an object keeps clear of the centre.

A box (top, left, bottom, right) in pixels covers rows top .. bottom - 1 and columns left .. right - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aha_core.errors import DataError

Masks = Bool[Tensor, "B 1 H W"]
Box = tuple[int, int, int, int]


def box_masks(boxes: Sequence[Sequence[Box]], size: tuple[int, int]) -> Masks:
    """The union of each image's boxes.

    Raises DataError for an image without a box, and for a box that is empty or leaves the image.
    """
    height, width = size
    masks = torch.zeros(len(boxes), 1, height, width, dtype=torch.bool)
    for image, own in enumerate(boxes):
        if not own:
            raise DataError(f"image {image} of this batch has no box; leave such images out")
        for top, left, bottom, right in own:
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise DataError(
                    f"box {(top, left, bottom, right)} of image {image} is not inside {height} x {width} pixels; "
                    "boxes are (top, left, bottom, right), ends exclusive"
                )
            masks[image, 0, top:bottom, left:right] = True
    return masks


def bounding_boxes(masks: Masks) -> Int[Tensor, "B 4"]:
    """The smallest box around each mask. Raises DataError for an empty mask."""
    found = []
    for image, mask in enumerate(masks[:, 0]):
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        if not len(rows):
            raise DataError(f"the mask of image {image} of this batch is empty; leave such images out")
        found.append(torch.stack([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]))
    return torch.stack(found)


def off_centre(masks: Masks) -> Bool[Tensor, "B"]:
    """Whether no central pixel (one, two or four of them) lies in the mask: where a guess of the centre misses."""
    height, width = masks.shape[-2:]
    rows = slice((height - 1) // 2, height // 2 + 1)
    columns = slice((width - 1) // 2, width // 2 + 1)
    return ~masks[:, 0, rows, columns].flatten(1).any(dim=1)
