"""Checks of a method itself, not of finished maps: grid pointing game, max-sensitivity, model randomisation.

They ask a method for new maps, of mosaics, of shifted images, of a target with random weights, and so cost many times
what scoring costs: they run on few images and for the methods that are named. One row per measured map:

    grid_NxN          image: number of the mosaic; detail: the cell's class; value: energy in the cell (chance 1 / N^2)
    grid_NxN_rank     the same, value: rank accuracy, the share of the map's HW / N^2 highest pixels in the cell
    grid_NxN_hit      the same, value: 1 where the map's maximum lies in the cell
    max_sensitivity   value: relative change of the map
    skipped           detail: why a grid pointing game was not played
    spearman, ssim    detail: the last randomised group of the cascade; value: likeness to the intact target's map
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.config import ChecksConfig
from aha_core.errors import AttributionError, DataError
from aha_core.metrics import (
    alone,
    cell_energy,
    cell_hit,
    cell_rank_accuracy,
    choose_cells,
    max_sensitivity,
    model_randomisation,
    mosaics,
)
from aha_core.protocols import Attributor
from aha_core.targets import Target

MakeMethod = Callable[[Target], Attributor]
Row = dict[str, Any]


def check_method(
    make_method: MakeMethod,
    target: Target,
    images: Float[Tensor, "B 3 H W"],
    indices: Sequence[int],
    config: ChecksConfig,
    batch_size: int,
    seed: int,
) -> Iterator[Row]:
    """All checks of one method; rows without the method's name.

    Args:
        make_method: builds the method for a target.
        images: mosaics are made of all of them, the other checks use the first `config.images`.
        indices: what identifies the images; they seed the draws.
    """
    with torch.no_grad():
        classes = torch.cat([target(part).argmax(dim=1) for part in images.split(batch_size)])

    def finite(of: Target) -> Finite:
        return Finite(make_method(of), batch_size, images.device)

    method = finite(target)
    for side in config.sides:
        yield from _grid(method, target, images, classes, side, config.mosaics, batch_size, seed)
    few = min(config.images, len(images))
    images, classes, indices = images[:few], classes[:few], indices[:few]
    maps = method.attribute(images, classes)
    seeds = [seed * 1_000_003 + index for index in indices]
    moved = max_sensitivity(method, images, classes, maps, seeds, draws=config.draws)
    for index, value in zip(indices, moved.tolist(), strict=True):
        if isfinite(value):  # a map of zeros has no scale to compare with
            yield {"check": "max_sensitivity", "image": index, "detail": "", "value": value}
    for step in model_randomisation(
        lambda model: finite(with_model(target, model)), target.model, images, classes, seed, config.depths
    ):
        for name, values in (("spearman", step.spearman), ("ssim", step.ssim)):
            for index, value in zip(indices, values.tolist(), strict=True):
                yield {"check": name, "image": index, "detail": step.group, "value": value}


class Finite:
    """A method asked for `batch_size` images at a time on a device, whose maps (on the images' device) are checked.

    Raises AttributionError for NaN or infinite values.
    """

    def __init__(self, method: Attributor, batch_size: int, device: torch.device | str) -> None:
        self.method, self.batch_size, self.device = method, batch_size, device

    def attribute(
        self, x: Float[Tensor, "B 3 H W"], target: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B 1 H W"]:
        images = x.split(self.batch_size)
        classes = [None] * len(images) if target is None else target.to(self.device).split(self.batch_size)
        made = [self.method.attribute(part.to(self.device), own) for part, own in zip(images, classes, strict=True)]
        maps = torch.cat(made).to(x.device)
        if not bool(maps.isfinite().all()):
            raise AttributionError("a map is not finite")
        return maps


def _grid(
    method: Attributor,
    target: Target,
    images: Tensor,
    classes: Int[Tensor, "B"],
    side: int,
    count: int,
    batch_size: int,
    seed: int,
) -> Iterator[Row]:
    """The grid pointing game; where too few images are recognised, the reason."""
    try:
        single = alone(images, side, target.mean)
        with torch.no_grad():
            found = torch.cat([target.probabilities(part) for part in single.split(batch_size)])
        confidences = found.gather(1, classes[:, None])[:, 0]
        cells = choose_cells(classes.tolist(), confidences.tolist(), side, count, seed)
        made = mosaics(images, classes, cells, side)
    except DataError as error:
        yield {"check": "skipped", "image": -1, "detail": f"{side} x {side}: {error}", "value": 0.0}
        return
    jobs = [(mosaic, cell) for mosaic in range(len(made.images)) for cell in range(side * side)]
    for start in range(0, len(jobs), batch_size):
        mosaic, cell = torch.tensor(jobs[start : start + batch_size], device=images.device).unbind(dim=1)
        wanted = made.classes[mosaic, cell]
        maps = method.attribute(made.images[mosaic], wanted)
        seeds = [seed * 1_000_003 + number for number in mosaic.tolist()]  # a mosaic's ties fall alike for all classes
        scores = {
            "": cell_energy(maps, cell, side),
            "_rank": cell_rank_accuracy(maps, cell, side, seeds),
            "_hit": cell_hit(maps, cell, side, seeds).double(),
        }
        for kind, values in scores.items():
            for number, label, value in zip(mosaic.tolist(), wanted.tolist(), values.tolist(), strict=True):
                yield {"check": f"grid_{side}x{side}{kind}", "image": number, "detail": str(label), "value": value}


def with_model(target: Target, model: nn.Module) -> Target:
    """The target with another model of the same kind in its place; the given target is not changed."""
    other = copy.copy(target)
    other._modules = dict(target._modules)
    other.model = model.eval().requires_grad_(False)
    return other
