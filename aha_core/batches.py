"""Which images a worker sees at which step: a function of (seed, step, position in the global batch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.objective import generator
from aha_core.parts import PARTS, SIDE


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch. `positions` are the images' places in the global batch."""

    images: Float[Tensor, "B 3 H W"]
    labels: Int[Tensor, "B"]
    positions: range
    mosaics: Bool[Tensor, "B"]

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device), self.labels.to(device), self.positions, self.mosaics.to(device))


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """Indices of global batch `step`: consecutive pieces of seeded permutations, one for each epoch."""
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, start = divmod(position + len(indices), count)
        order = torch.randperm(count, generator=generator(seed, 1, epoch))
        indices += order[start : start + batch - len(indices)].tolist()
    return indices


def training_image(
    dataset: PreparedImages, i: int, mosaics: float, generator: torch.Generator
) -> tuple[UInt8[Tensor, "3 S S"], bool]:
    """Image i, augmented, and False; with probability `mosaics` a 2x2 mosaic of it and three random images, and True.

    The label stays that of image i. In a mosaic the evidence of a class lies in one cell among three of other classes,
    so it teaches the explainer to tell classes apart.
    """
    if not mosaics or float(torch.rand((), generator=generator)) >= mosaics:
        return dataset.augmented(i, generator), False
    others = torch.randint(len(dataset), (PARTS - 1,), generator=generator).tolist()
    order = torch.randperm(PARTS, generator=generator).tolist()
    cells = [dataset.augmented([i, *others][place], generator, dataset.image_size // SIDE) for place in order]
    mosaic = make_grid(torch.stack(cells), nrow=SIDE, padding=0)
    return mosaic if mosaic.shape[-1] == dataset.image_size else resize(mosaic, [dataset.image_size] * 2), True


def batches(
    dataset: PreparedImages, labels: list[int], params: Params, rank: int, world: int, first: int
) -> Iterator[Batch]:
    """This rank's batches from step `first` on, decoded one step ahead in a thread."""
    size = params.train.batch_size // world
    positions = range(rank * size, (rank + 1) * size)

    def load(step: int) -> Batch:
        chosen = batch_indices(params.seed, step, params.train.batch_size, len(dataset))
        mine = [chosen[position] for position in positions]
        drawn = [
            training_image(dataset, index, params.train.mosaics, generator(params.seed, 2, step, position))
            for index, position in zip(mine, positions, strict=True)
        ]
        images = torch.stack([image for image, _ in drawn]).float() / 255
        classes = torch.tensor([labels[dataset.label(index)] for index in mine])
        return Batch(images, classes, positions, torch.tensor([mosaic for _, mosaic in drawn]))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, first)
        for step in range(first, params.train.steps):
            batch = ahead.result()
            if step + 1 < params.train.steps:
                ahead = pool.submit(load, step + 1)
            yield batch
