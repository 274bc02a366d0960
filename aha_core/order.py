"""The order in which the parts of an image are removed: by importance, ties at random.

Each image is shuffled with its own seed and then sorted stably, so that ties fall at random and depend neither on the
batch nor on the device; a constant map gives a random order. Curves, localisation and the hard ranking share this rule
of the metric contract.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.errors import AttributionError


def removal_order(
    maps: Float[Tensor, "B 1 H W"],
    seeds: Sequence[int],
    method: str = "attribution",
    shuffles: Int[Tensor, "B N"] | None = None,
) -> Int[Tensor, "B N"]:
    """Flat pixel indices from the most to the least important; N = HW.

    Args:
        maps: importance at input resolution, any floating type and range.
        seeds: one per image.
        method: named in errors.
        shuffles: `tie_breaks` of these seeds, where many methods share them; drawn where None.

    Raises:
        AttributionError: wrong shape, or a value that is not finite.
    """
    if maps.ndim != 4 or maps.shape[1] != 1 or len(seeds) != maps.shape[0]:
        raise AttributionError(
            f"{method}: expected maps of shape ({len(seeds)}, 1, H, W), one for each of {len(seeds)} seeds, "
            f"got {tuple(maps.shape)}"
        )
    values = maps.detach().flatten(1)
    bad = (~values.isfinite()).sum(dim=1)
    if bool(bad.any()):
        image = int(bad.ne(0).nonzero()[0])
        raise AttributionError(
            f"{method}: {int(bad[image])} of {values.shape[1]} values of map {image} are NaN or infinite; "
            "drop the method from evaluate.methods or compute it in float32"
        )
    if shuffles is None:
        shuffles = tie_breaks(seeds, values.shape[1])
    shuffles = shuffles.to(values.device)
    order = values.gather(1, shuffles).argsort(dim=1, descending=True, stable=True)
    return shuffles.gather(1, order)


def tie_breaks(seeds: Sequence[int], pixels: int) -> Int[Tensor, "B N"]:
    """The random order in which each image's equal values fall: one permutation per seed, drawn on the CPU."""
    return torch.stack([_permutation(pixels, seed) for seed in seeds])


def ranks_of(orders: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """The rank of each pixel, 0 = first removed: the inverse permutation."""
    places = torch.arange(orders.shape[1], device=orders.device).expand_as(orders)
    return torch.empty_like(orders).scatter_(1, orders, places)


def rank_cells(
    maps: Float[Tensor, "B 1 H W"], cell: int, seeds: Sequence[int], shift: int = 0
) -> Float[Tensor, "B 1 H W"]:
    """Maps in whose order a square cell comes as a whole: cells by their mean importance, inside a cell by pixel.

        value = rank of the mean of the pixel's cell + rank of the pixel / N,    ranks from 0

    Cells of equal mean fall at random; equal pixels of a cell share a rank.

    A transformer sees an image in patches: cells of its patch size rank what it can have or lose as a whole.

    Args:
        cell: side, pixels; cells at the right and lower end are cut off where it does not divide the image.
        seeds: one per image.
        shift: pixels by which the cells begin above and left of the image.

    Returns:
        float64.
    """
    rows, columns = ((torch.arange(length, device=maps.device) + shift) // cell for length in maps.shape[-2:])
    place = (rows[:, None] * (columns[-1] + 1) + columns).flatten()
    values = maps.detach().double().flatten(1)
    sums = values.new_zeros(len(values), int(place[-1]) + 1).index_add_(1, place, values)
    means = sums / torch.bincount(place).clamp_min(1)
    last_first = removal_order(means[:, None, None], seeds).flip(1)
    return (ranks_of(last_first)[:, place] + _dense_ranks(values) / values.shape[1]).view_as(maps)


def scatter(maps: Float[Tensor, "B 1 H W"], strength: float, seeds: Sequence[int]) -> Float[Tensor, "B 1 H W"]:
    """The order with neighbours drawn apart by ordered dither: the same map in a grain of single pixels.

        value = rank / N + strength * D,    ranks from 0 for the least important,  D = [[-3, 1], [3, -1]] / 8, tiled

    Of four neighbours of equal rank one goes early and one late, `3/4 strength` of all pixels apart: what a noisy map
    does to a smooth one, without noise. D is the 2x2 index matrix of Bayer (ICC 1973), centred.

    Args:
        strength: 0 keeps the order; from 4 on it is that of D alone.
        seeds: one per image.

    Returns:
        float64.
    """
    last_first = removal_order(maps, seeds).flip(1)
    ranks = ranks_of(last_first).double() / last_first.shape[1]
    rows, columns = (torch.arange(length, device=maps.device) % 2 for length in maps.shape[-2:])
    dither = torch.tensor([[-3.0, 1.0], [3.0, -1.0]], dtype=torch.float64, device=maps.device) / 8
    return ranks.view_as(maps) + strength * dither[rows[:, None], columns]


def _dense_ranks(values: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """0 for the smallest value, one more for each larger one."""
    ordered, order = values.sort(dim=1)
    steps = torch.zeros_like(ordered)
    steps[:, 1:] = (ordered.diff(dim=1) > 0).to(steps)
    return torch.empty_like(values).scatter_(1, order, steps.cumsum(dim=1))


def _permutation(count: int, seed: int) -> Int[Tensor, "N"]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
