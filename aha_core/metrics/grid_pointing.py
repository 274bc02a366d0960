"""Grid pointing game (Böhle et al., "Convolutional Dynamic Alignment Networks", CVPR 2021): no masks, no centre bias.

An n x n mosaic holds confidently classified images of n^2 different classes. A map that explains the class of one
cell should put its mass there:

    energy = share of the map's positive part in the cell = `energy_in_mask`(map, cell)
    rank   = share of the map's HW / n^2 highest pixels that lie in the cell = `rank_accuracy`(map, cell)
    hit    = whether the map's maximum lies in the cell = `pointing_hit`(map, cell)

each 1 / n^2 by chance. The paper's score is the energy, which depends on where a map has its zero: of a map of Gaussian
values around zero with exactly the cell on top, phi(.674) / phi(0) = .80 lies there for n = 2. Rank and hit depend on
the order alone, like deletion and insertion.

Mosaics have the target's input size, so that transformers with a fixed size can play: each image shrinks to size / n.
Shrunk images are recognised less well, and a class that the target does not see has no place in its map. So confidence
is measured at the size of a cell (`alone`), and images below `CONFIDENT` do not play.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.errors import DataError
from aha_core.metrics.localisation import energy_in_mask, pointing_hit, rank_accuracy
from aha_core.metrics.single_deletion import cell_index

CONFIDENT = 0.5  # probability of the class of an image alone at the size of a cell


@dataclass(frozen=True)
class Mosaics:
    """images: in [0, 1]; classes: of the n^2 cells, row by row; sources: places of the images that fill the cells."""

    images: Float[Tensor, "M 3 H W"]
    classes: Int[Tensor, "M K"]
    sources: Int[Tensor, "M K"]
    side: int


def choose_cells(
    classes: Sequence[int], confidences: Sequence[float], side: int, count: int, seed: int
) -> list[list[int]]:
    """Images for at most `count` mosaics: n^2 distinct classes each, a class's most confident images first, none twice.

    Only images with a confidence of at least `CONFIDENT` are taken. A class may return in another mosaic with another
    image. Which classes share a mosaic is a seeded draw that prefers classes with many images left, so that as many
    mosaics as possible can be filled.

    Raises DataError where the images do not suffice for one.
    """
    best_last: dict[int, list[int]] = {}
    confident = [place for place, value in enumerate(confidences) if value >= CONFIDENT]
    for place in sorted(confident, key=lambda one: (confidences[one], -one)):
        best_last.setdefault(int(classes[place]), []).append(place)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for _ in range(count):
        left = [label for label in sorted(best_last) if best_last[label]]
        if len(left) < side * side:
            break
        shuffled = [left[place] for place in torch.randperm(len(left), generator=generator).tolist()]
        shuffled.sort(key=lambda label: -len(best_last[label]))  # stable: ties stay shuffled
        cells = [best_last[label].pop() for label in shuffled[: side * side]]
        chosen.append([cells[place] for place in torch.randperm(len(cells), generator=generator).tolist()])
    if not chosen:
        raise DataError(
            f"{len(confident)} images of {len(best_last)} classes that are recognised with a probability of "
            f"{CONFIDENT} do not fill one mosaic of {side} x {side} different classes; give more images or use a "
            "smaller grid"
        )
    return chosen


def shrink(images: Float[Tensor, "B 3 H W"], size: tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Images at this height and width, antialiased."""
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def alone(images: Float[Tensor, "B 3 H W"], side: int, colour: Float[Tensor, "3 1 1"]) -> Float[Tensor, "B 3 H W"]:
    """Each image at the size of a cell in the middle of one colour."""
    height, width = images.shape[-2:]
    small = shrink(images, (height // side, width // side))
    canvas = colour.to(images).expand(len(images), -1, height, width).clone()
    top, left = (height - height // side) // 2, (width - width // side) // 2
    canvas[..., top : top + small.shape[-2], left : left + small.shape[-1]] = small
    return canvas


def mosaics(
    images: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"], cells: Sequence[Sequence[int]], side: int
) -> Mosaics:
    """Mosaics of the chosen images (`choose_cells`), at the size of one image."""
    sources = torch.tensor([list(row) for row in cells], device=images.device)
    height, width = images.shape[-2:]
    index = cell_index(side, (height, width))
    heights, widths = (index[:, 0] // side).bincount().tolist(), index[0].bincount().tolist()
    rows = [
        torch.cat([shrink(images[sources[:, row * side + column]], (h, w)) for column, w in enumerate(widths)], dim=3)
        for row, h in enumerate(heights)
    ]
    return Mosaics(torch.cat(rows, dim=2), classes[sources], sources, side)


def cell_masks(side: int, size: tuple[int, int]) -> Bool[Tensor, "K 1 H W"]:
    """The pixels of each cell, row by row."""
    return cell_index(side, size)[None, None] == torch.arange(side * side)[:, None, None, None]


def cell_energy(maps: Float[Tensor, "B 1 H W"], cells: Int[Tensor, "B"], side: int) -> Float[Tensor, "B"]:
    """Share of each map's positive part in its cell; 1 / n^2 for a map without one."""
    return energy_in_mask(maps, _masks_of(maps, cells, side))


def cell_rank_accuracy(
    maps: Float[Tensor, "B 1 H W"], cells: Int[Tensor, "B"], side: int, seeds: Sequence[int]
) -> Float[Tensor, "B"]:
    """Share of each map's highest pixels, as many as a cell has, in its cell; ties fall as in `removal_order`."""
    return rank_accuracy(maps, _masks_of(maps, cells, side), seeds)


def cell_hit(
    maps: Float[Tensor, "B 1 H W"], cells: Int[Tensor, "B"], side: int, seeds: Sequence[int]
) -> Bool[Tensor, "B"]:
    """Whether each map's maximum lies in its cell; ties fall as in `removal_order` with the same seeds."""
    return pointing_hit(maps, _masks_of(maps, cells, side), seeds)


def _masks_of(maps: Float[Tensor, "B 1 H W"], cells: Int[Tensor, "B"], side: int) -> Bool[Tensor, "B 1 H W"]:
    return cell_masks(side, (maps.shape[-2], maps.shape[-1])).to(maps.device)[cells]
