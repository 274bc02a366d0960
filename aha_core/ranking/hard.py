"""The ranking itself: hard masks of the k most important cells, ties broken at random.

    m_j = clip(k - r_j, 0, 1)      r_j = rank of cell j, 0 = most important

The limit of every relaxation here as its temperature goes to 0 (budgets between integers give the last cell its
share). Ties fall by a seeded shuffle before a stable sort, the rule of the metric contract. Time O(N log N + S N); the
gradient is zero almost everywhere, so none is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class HardTopK:
    """The limit tau = 0.

    Args:
        generators: one per image, for ties.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    @torch.no_grad()
    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        ranks = ranking_order(scores, self.generators).argsort(dim=1)
        return (k.to(scores).view(-1, 1, 1) - ranks.to(scores.dtype)).clamp(0, 1)


def ranking_order(scores: Float[Tensor, "B N"], generators: Sequence[torch.Generator]) -> Int[Tensor, "B N"]:
    """Indices from the highest to the lowest score; each image is shuffled with its own generator, then stably sorted.

    So ties fall at random and depend neither on the batch nor on the device; constant scores give a random order.
    """
    shuffles = torch.stack([torch.randperm(scores.shape[1], generator=one) for one in generators]).to(scores.device)
    order = scores.detach().gather(1, shuffles).argsort(dim=1, descending=True, stable=True)
    return shuffles.gather(1, order)
