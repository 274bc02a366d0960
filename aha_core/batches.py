"""Which images a worker sees at which step: a function of (seed, step, position in the global batch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.objective import generator


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch. `positions` are the images' places in the global batch."""

    images: Float[Tensor, "B 3 H W"]
    labels: Int[Tensor, "B"]
    positions: range


def batch_indices(seed: int, step: int, batch: int, count: int) -> list[int]:
    """Indices of global batch `step`: consecutive pieces of seeded permutations, one for each epoch."""
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, start = divmod(position + len(indices), count)
        order = torch.randperm(count, generator=generator(seed, 1, epoch))
        indices += order[start : start + batch - len(indices)].tolist()
    return indices


def batches(
    dataset: PreparedImages, labels: list[int], params: Params, rank: int, world: int, first: int
) -> Iterator[Batch]:
    """This rank's batches from step `first` on, decoded one step ahead in a thread."""
    size = params.train.batch_size // world
    positions = range(rank * size, (rank + 1) * size)

    def load(step: int) -> Batch:
        chosen = batch_indices(params.seed, step, params.train.batch_size, len(dataset))
        mine = [chosen[position] for position in positions]
        if params.train.augment == "none":
            images = [dataset.image(index) for index in mine]
        else:
            images = [
                dataset.augmented(index, generator(params.seed, 2, step, position))
                for index, position in zip(mine, positions, strict=True)
            ]
        classes = torch.tensor([labels[dataset.label(index)] for index in mine])
        return Batch(torch.stack(images).float() / 255, classes, positions)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, first)
        for step in range(first, params.train.steps):
            batch = ahead.result()
            if step + 1 < params.train.steps:
                ahead = pool.submit(load, step + 1)
            yield batch
