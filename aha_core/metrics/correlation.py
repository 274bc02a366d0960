"""Likeness of maps: Spearman's rank correlation and SSIM, one number per pair.

    Spearman   rho = cov(R(a), R(b)) / (sd R(a) sd R(b)),   R: ranks, ties share their mean rank
    SSIM       mean over windows of (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2))

SSIM (Wang et al., IEEE TIP 2004) uses the paper's Gaussian window (11x11, sigma 1.5), C1 = .01^2 and C2 = .03^2 for a
range of 1, and only windows that lie within the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def average_ranks(values: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Ranks from 1 to N in each row; equal values share the mean of their places."""
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).double() / 2


def spearman(a: Float[Tensor, "B N"], b: Float[Tensor, "B N"]) -> Float[Tensor, "B"]:
    """Rank correlation of the rows. A constant row ranks nothing: its correlation is 0."""
    first, second = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (average_ranks(a), average_ranks(b)))
    norm = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    return torch.where(norm > 0, (first * second).sum(dim=1) / norm.clamp(min=1e-300), torch.zeros_like(norm))


def unit_range(maps: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Each map shifted and scaled to [0, 1] in float64; constant maps become 0."""
    maps = maps.double()
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))


def ssim(a: Float[Tensor, "B 1 H W"], b: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B"]:
    """Structural similarity of maps in [0, 1] (`unit_range`), in [-1, 1].

    Raises ValueError for maps smaller than the window.
    """
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs maps of at least {WINDOW} pixels a side, got {tuple(a.shape[-2:])}")
    a, b = a.double(), b.double()
    offsets = torch.arange(WINDOW, device=a.device, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = weights / weights.sum()

    def windowed(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

    mean_a, mean_b = windowed(a), windowed(b)
    variance_a, variance_b = windowed(a * a) - mean_a**2, windowed(b * b) - mean_b**2
    covariance = windowed(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (numerator / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))).mean(dim=(1, 2, 3))
