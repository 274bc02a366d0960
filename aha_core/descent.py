"""How refinement moves what it changes, from the gradients g_r of the references r.

    normalised   D <- D - lr h(sum_r h(g_r)),    h(g) = clip(g / rms(g), -3, 3) of each image
    adam         Adam on sum_r g_r

A normalised step is the hybrid map's, again and again: cells move as far as they matter, and each reference has the
same say, however steep its scores are. Adam's first steps move every cell alike, by lr: it divides each by the size of
its own few gradients, so that on fine cells most of a step is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from aha_core.config import OptimiserName
from aha_core.hybrid import relative


class Descent(Protocol):
    """Moves leaves with one row for each image; a row whose gradients are 0 has stopped, and nothing reads it again."""

    def __call__(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        """One step, from each reference's gradients of all leaves."""
        ...


class Normalised:
    def __init__(self, leaves: list[Tensor], lr: float) -> None:
        self.leaves, self.lr = leaves, lr

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        for leaf, *own in zip(self.leaves, *gradients, strict=True):
            together = torch.stack([relative(one.flatten(1)) for one in own]).sum(dim=0)
            leaf -= self.lr * relative(together).view_as(leaf)


class Adam:
    def __init__(self, leaves: list[Tensor], lr: float) -> None:
        self.leaves, self.optimiser = leaves, torch.optim.Adam(leaves, lr=lr)

    def __call__(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        for leaf, *own in zip(self.leaves, *gradients, strict=True):
            leaf.grad = torch.stack(own).sum(dim=0)
        self.optimiser.step()


DESCENTS: dict[OptimiserName, Callable[[list[Tensor], float], Descent]] = {"normalised": Normalised, "adam": Adam}
