"""SoftSort and NeuralSort: row-stochastic N x N relaxations of the sorting permutation.

    SoftSort    P_i = softmax_j(-|s_[i] - s_j| / tau)                           s_[i] = i-th largest score
    NeuralSort  P_i = softmax_j(((N + 1 - 2 i) s_j - sum_l |s_j - s_l|) / tau)     i = 1 .. N

Their columns need not sum to 1, so the matrix is rounded to a doubly stochastic one before the first k rows are
summed. Sources: Prillo & Eisenschlos, "SoftSort" (2020); Grover et al., "Stochastic Optimization of Sorting Networks
via Continuous Relaxations" (2019). Time and memory O(N^2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.ranking.rounding import prefix_masks, round_plan


class SoftSort:
    """Relaxation by distances to the sorted scores.

    Args:
        tau: in units of the scores; the edge of a mask has standard deviation sqrt(2) tau.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        falling = wide.sort(dim=1, descending=True).values
        logits = -(falling[:, :, None] - wide[:, None, :]).abs() / self.tau
        return prefix_masks(round_plan(logits.softmax(dim=2), 1.0, 1.0), k).to(scores.dtype)


class NeuralSort:
    """Relaxation by sums of distances.

    Args:
        tau: in units of the scores times N; the edge of a mask is about sqrt(tau / (2 N f)) wide where the scores
            have density f.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        wide = wide - wide.mean(dim=1, keepdim=True)  # a shift adds a constant to each row: no cancellation
        count = scores.shape[1]
        distances = (wide[:, :, None] - wide[:, None, :]).abs().sum(dim=2)
        slots = count + 1 - 2 * torch.arange(1, count + 1, device=wide.device, dtype=wide.dtype)
        logits = (slots[:, None] * wide[:, None, :] - distances[:, None, :]) / self.tau
        return prefix_masks(round_plan(logits.softmax(dim=2), 1.0, 1.0), k).to(scores.dtype)
