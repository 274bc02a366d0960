"""Agreement of maps with object masks, one number per image.

    pointing     1[the most important pixel lies in the mask]         (Zhang et al., "Excitation Backprop", 2016)
    energy       sum_mask relu(map) / sum relu(map)                   (Wang et al., "Score-CAM", 2020)
    rank         |top |mask| pixels within the mask| / |mask|         (Arras et al., "CLEVR-XAI", 2022)
    area         |mask| / HW, the value that all three have in expectation for a random map

Photographs put objects in the centre: always read these next to `area_share` and the centre baseline. The grid
pointing game (Böhle et al., "CoDA Nets", 2021) is `energy_in_mask` with the cell of the right class as the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.errors import DataError
from aha_core.order import removal_order

Maps = Float[Tensor, "B 1 H W"]
Masks = Bool[Tensor, "B 1 H W"]


def pointing_hit(
    maps: Maps, masks: Masks, seeds: Sequence[int], orders: Int[Tensor, "B N"] | None = None
) -> Bool[Tensor, "B"]:
    """Whether the maximum lies in the mask; ties fall as in `removal_order` with the same seeds.

    Args:
        orders: `removal_order` of the maps, where it is known.
    """
    inside = _flat(masks)
    best = (removal_order(maps, seeds) if orders is None else orders)[:, :1]
    return inside.gather(1, best).squeeze(1)


def energy_in_mask(maps: Maps, masks: Masks) -> Float[Tensor, "B"]:
    """Share of the positive part of the map within the mask.

    A map without positive values says nothing about the place; it gets the value of a uniform map, `area_share`.
    """
    inside = _flat(masks)
    energy = maps.detach().flatten(1).double().clamp(min=0)
    energy = torch.where(energy.sum(dim=1, keepdim=True) > 0, energy, torch.ones_like(energy))
    return (energy * inside).sum(dim=1) / energy.sum(dim=1)


def rank_accuracy(
    maps: Maps, masks: Masks, seeds: Sequence[int], orders: Int[Tensor, "B N"] | None = None
) -> Float[Tensor, "B"]:
    """Share of the |mask| most important pixels that lie in the mask; ties and `orders` as in `pointing_hit`."""
    inside = _flat(masks)
    size = inside.sum(dim=1, keepdim=True)
    sorted_inside = inside.gather(1, removal_order(maps, seeds) if orders is None else orders)
    among_first = torch.arange(inside.shape[1], device=inside.device) < size
    return (sorted_inside & among_first).sum(dim=1).double() / size.squeeze(1)


def area_share(masks: Masks) -> Float[Tensor, "B"]:
    """Share of the image that the mask covers."""
    return _flat(masks).double().mean(dim=1)


def _flat(masks: Masks) -> Bool[Tensor, "B N"]:
    """Masks as [B, HW] booleans. Raises DataError for an empty mask, for which no measure is defined."""
    flat = masks.bool().flatten(1)
    empty = (~flat.any(dim=1)).nonzero()
    if empty.numel():
        raise DataError(f"the mask of image {int(empty[0])} of this batch is empty; leave such images out")
    return flat
