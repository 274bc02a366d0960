"""LapSum: soft top-k with the Laplace distribution, whose threshold has a closed form.

    m_j = F((s_j - theta) / b),  F(u) = 1 - exp(-u) / 2 for u >= 0, else exp(u) / 2
    sum_j m_j = A - exp(t) U / 2 + exp(-t) L / 2 = k      with t = (theta - s_i) / b

for theta between two neighbouring sorted scores s_i >= theta >= s_{i+1}: A cells lie above, U = sum over them of
exp(-(s_j - s_i) / b) and L = sum below of exp(-(s_i - s_j) / b). exp(t) solves a quadratic equation. Source: Struski et
al., "LapSum: One Method to Differentiate Them All" (2025), https://arxiv.org/abs/2503.06242. Time O(N log N + S N),
memory O(S N); gradient in `threshold.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.ranking.threshold import threshold_masks


class LapSum:
    """Relaxation by a threshold under Laplace noise.

    Args:
        scale: b, in units of the scores; the edge of a mask has standard deviation sqrt(2) b.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        return threshold_masks(scores, k, self.scale, solve, lambda masks: torch.minimum(masks, 1 - masks))


@torch.no_grad()
def solve(scores: Float[Tensor, "B N"], k: Float[Tensor, "S"], scale: float) -> Float[Tensor, "S B N"]:
    """Masks F((s - theta) / scale) with sum k, without iterations.

    Budgets k = 0 and k = N give exact zeros and ones.
    """
    count = scores.shape[1]
    scaled = (scores - scores.mean(dim=-1, keepdim=True)).double() / scale
    falling = scaled.sort(dim=-1, descending=True).values
    # log U and log L with the pivot at each sorted score;
    upper = torch.logcumsumexp(-falling, dim=-1) + falling
    lower = torch.logcumsumexp(falling.flip(-1), dim=-1).flip(-1)
    strictly_lower = torch.cat([lower[:, 1:] - falling[:, :-1], torch.full_like(falling[:, :1], -torch.inf)], dim=-1)
    rank = torch.arange(1, count + 1, device=scores.device, dtype=torch.float64)
    sums = rank - upper.exp() / 2 + strictly_lower.exp() / 2  # sum_j m_j with theta at each sorted score: rises
    goal = k.double().clamp(count * 1e-9, count * (1 - 1e-9)).expand(len(scores), -1).contiguous()
    above = torch.searchsorted(sums.contiguous(), goal)  # A: cells above theta
    place = (above - 1).clamp_min(0)
    pivot = falling.gather(1, place)  # the lowest score above theta; where none is above, the highest
    none = above == 0
    log_up = torch.where(none, -torch.inf, upper.gather(1, place))
    log_down = torch.where(none, (lower - falling).gather(1, place), strictly_lower.gather(1, place))
    excess = above - goal  # U y - L / y = 2 (A - k), y = exp(t)
    root = torch.sqrt(excess.square() + torch.exp(log_up + log_down))
    # Two forms of the same root, each without cancellation; far apart scores leave U L = 0 in floating point.
    from_above = torch.log(excess + root) - log_up
    from_below = log_down - torch.log(root - excess)
    balanced = (log_down - log_up) / 2
    theta = pivot + torch.where(excess > 0, from_above, torch.where(excess < 0, from_below, balanced))
    distance = scaled[None] - theta.transpose(0, 1)[..., None]
    tail = torch.exp(-distance.abs()) / 2
    masks = torch.where(distance >= 0, 1 - tail, tail).to(scores.dtype)
    budget = k.view(-1, 1, 1)
    return torch.where(budget <= 0, 0.0, torch.where(budget >= count, 1.0, masks))
