"""The ranking itself: hard masks of the k most important cells, ties broken at random.

    m_j = clip(k - r_j, 0, 1)      r_j = rank of cell j, 0 = most important

The limit of every relaxation here as its temperature goes to 0 (budgets between integers give the last cell its
share). The order is that of the metric contract, `aha_core.order`. Time O(N log N + S N); the gradient is zero almost
everywhere, so none is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.order import ranks_of, removal_order


class HardTopK:
    """The limit tau = 0.

    Args:
        seeds: one per image, for ties.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds

    @torch.no_grad()
    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        ranks = ranks_of(removal_order(scores[:, None, None], self.seeds))
        return (k.to(scores).view(-1, 1, 1) - ranks.to(scores.dtype)).clamp(0, 1)
