"""Shapley values by weighted least squares: coalitions from the Shapley kernel, efficiency, the loss.

    phi = argmin E_z (v(z) - v(0) - z phi)^2   s.t.   sum phi = v(1) - v(0)

The N players are the cells of a grid, v(z) is the target's score when only the cells of z are kept. z: its size s drawn
with probability ~ 1 / (s (N - s)), then a subset of that size, each with its complement. The minimum of the exact
expectation are the Shapley values (Charnes et al., 1988; Lundberg & Lee, NeurIPS 2017; paired sampling: Covert & Lee,
AISTATS 2021). Kernel SHAP solves it for one image, FastSHAP trains a network on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def cell_values(maps: Float[Tensor, "B 1 H W"], grid: int) -> Float[Tensor, "B N"]:
    """phi: the map's mean in each of N = grid^2 cells, divided by N, so that maps of scale 1 have sums of scale 1."""
    return F.adaptive_avg_pool2d(maps.float(), grid).flatten(1) / grid**2


def shapley_masks(cells: int, count: int, generator: torch.Generator) -> Bool[Tensor, "S N"]:
    """Coalitions in complementary pairs, sizes with the Shapley kernel's share."""
    sizes = torch.arange(1, cells, dtype=torch.float64)
    drawn = torch.multinomial(1 / (sizes * (cells - sizes)), -(-count // 2), replacement=True, generator=generator) + 1
    places = torch.rand((len(drawn), cells), generator=generator).argsort(dim=1).argsort(dim=1)
    half = places < drawn[:, None]
    return torch.stack([half, ~half], dim=1).flatten(0, 1)[:count]


def efficient(phi: Float[Tensor, "B N"], none: Float[Tensor, "B"], full: Float[Tensor, "B"]) -> Float[Tensor, "B N"]:
    """phi_j + (v(1) - v(0) - sum phi) / N: the nearest values whose sum is v(1) - v(0) (FastSHAP, equation 5)."""
    return phi + ((full - none - phi.sum(dim=1)) / phi.shape[1])[:, None]


def shapley_loss(
    phi: Float[Tensor, "B N"],
    kept: Bool[Tensor, "P B N"],
    scores: Float[Tensor, "P B"],
    none: Float[Tensor, "B"],
    full: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """mean_z (v(z) - v(0) - z phi)^2 of each image, after `efficient`.

    Args:
        phi: what the network says, of any sum.
        kept: P coalitions of each image; scores: v(z) of each.
        none, full: v(0), v(1).
    """
    predicted = torch.einsum("pbn,bn->pb", kept.to(phi), efficient(phi, none, full))
    return (scores - none - predicted).square().mean(dim=0)
