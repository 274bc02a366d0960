"""Threshold soft top-k: the exactly converged two-bin transport problem, O(N) per budget and solver step.

    m_j = sigmoid((s_j - theta) / tau)      with theta solved so that sum_j m_j = k

The solution is unique because the sum falls strictly in theta. Source: entropic two-bin optimal transport (Cuturi et
al., "Differentiable Ranks and Sorting using Optimal Transport", 2019; Xie et al., "Differentiable Top-k with Optimal
Transport", 2020). Time O(S N) per Newton step (about ten), memory O(S N); gradient in `threshold.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.ranking.threshold import threshold_masks

BISECTIONS = 8  # narrow the bracket of theta (then Newton converges)
NEWTON_STEPS = 40  # at most; stops at the residual below
RESIDUAL = 1e-6  # of N, the largest error of sum_j m_j


class SoftTopK:
    """Relaxation by a threshold.

    Args:
        tau: temperature in units of the scores: cells within about tau of the threshold are undecided.
    """

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        return threshold_masks(scores, k, self.tau, solve, lambda masks: masks * (1 - masks))


@torch.no_grad()
def solve(scores: Float[Tensor, "B N"], k: Float[Tensor, "S"], tau: float) -> Float[Tensor, "S B N"]:
    """Masks sigmoid((s - theta) / tau) with sum k, by bisection and then safeguarded Newton steps.

    Budgets k = 0 and k = N give exact zeros and ones.
    """
    count = scores.shape[1]
    centred = scores - scores.mean(dim=-1, keepdim=True)  # theta is then of the size of the spread: no cancellation
    scaled = (centred / tau)[None]  # (1, B, N)
    goal = k.view(-1, 1, 1)
    inside = goal.clamp(count * 1e-6, count * (1 - 1e-6))
    spread = torch.log(inside / (count - inside))  # theta if all scores were equal
    low = scaled.amin(dim=-1, keepdim=True) - spread
    high = scaled.amax(dim=-1, keepdim=True) - spread
    theta = (low + high) / 2
    for step in range(BISECTIONS + NEWTON_STEPS):
        masks = torch.sigmoid(scaled - theta)
        excess = masks.sum(dim=-1, keepdim=True) - inside
        if excess.abs().max() <= RESIDUAL * count:
            break
        low, high = torch.where(excess > 0, theta, low), torch.where(excess > 0, high, theta)
        middle = (low + high) / 2
        if step < BISECTIONS:
            theta = middle
            continue
        newton = theta + excess / (masks * (1 - masks)).sum(dim=-1, keepdim=True)
        theta = torch.where((newton > low) & (newton < high), newton, middle)
    masks = torch.sigmoid(scaled - theta)
    return torch.where(goal <= 0, 0.0, torch.where(goal >= count, 1.0, masks))
