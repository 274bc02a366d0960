"""Boundary alignment: do the edges of the map's region follow the edges of the object?

    region     the |mask| most important pixels, as in rank accuracy
    precision  share of the region's boundary pixels within r of the mask's boundary
    recall     share of the mask's boundary pixels within r of the region's boundary
    F          2 precision recall / (precision + recall)

The boundary measure of video segmentation (Perazzi et al., DAVIS, CVPR 2016, after Martin et al., 2004), with its r:
0.8 % of the image's diagonal, rounded up. A boundary pixel lies in the region and has one of its 4 neighbours outside;
the border of the image is no boundary. Distances are Chebyshev's (a square neighbourhood).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, hypot

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.order import ranks_of, removal_order

Masks = Bool[Tensor, "B 1 H W"]
DIAGONAL_SHARE = 0.008  # DAVIS


def boundary_alignment(
    maps: Float[Tensor, "B 1 H W"],
    masks: Masks,
    seeds: Sequence[int],
    radius: int | None = None,
    orders: Int[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B"]:
    """Boundary F of each map's top region, in [0, 1]; ties as in `removal_order` with the same seeds.

    Args:
        radius: pixels; 0.8 % of the diagonal where None.
        orders: `removal_order` of the maps, where it is known.

    A mask that fills the image has no boundary, and neither has its region: F is 1.
    """
    rank = ranks_of(removal_order(maps, seeds) if orders is None else orders).view_as(maps)
    region = rank < masks.flatten(1).sum(dim=1)[:, None, None, None]
    return boundary_f(region, masks, radius)


def boundary_f(regions: Masks, masks: Masks, radius: int | None = None) -> Float[Tensor, "B"]:
    """Boundary F of two sets of masks."""
    if radius is None:
        radius = ceil(DIAGONAL_SHARE * hypot(*masks.shape[-2:]))
    ours, theirs = boundary(regions), boundary(masks)
    precision, recall = _near(ours, theirs, radius), _near(theirs, ours, radius)
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total.clamp(min=1e-12), torch.zeros_like(total))


def boundary(masks: Masks) -> Masks:
    """Mask pixels with a 4-neighbour outside the mask."""
    padded = F.pad(masks.float(), (1, 1, 1, 1), mode="replicate") > 0
    neighbours = padded[..., :-2, 1:-1] & padded[..., 2:, 1:-1] & padded[..., 1:-1, :-2] & padded[..., 1:-1, 2:]
    return masks & ~neighbours


def _near(points: Masks, goals: Masks, radius: int) -> Float[Tensor, "B"]:
    """Share of the points with a goal within the radius; 1 where there are no points and no goals."""
    reach = F.max_pool2d(goals.float(), 2 * radius + 1, stride=1, padding=radius) > 0
    count = points.flatten(1).sum(dim=1).double()
    share = (points & reach).flatten(1).sum(dim=1) / count.clamp(min=1)
    both_empty = (count == 0) & ~goals.flatten(1).any(dim=1)
    return torch.where(both_empty, torch.ones_like(share), share)
