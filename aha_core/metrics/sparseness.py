"""Sparseness of a map: the Gini index of its magnitudes (Chalasani et al., "Concise Explanations", ICML 2020).

    G = sum_k (2 k - N - 1) |v|_(k) / (N sum |v|),    |v|_(1) <= … <= |v|_(N)

0 for a uniform map, 1 - 1/N for a single pixel. It says how easily a map is read, not whether it is right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gini(maps: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B"]:
    """Gini index of each map's absolute values; 0 for a map of zeros."""
    values = maps.detach().flatten(1).double().abs().sort(dim=1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=values.device, dtype=torch.float64) - count - 1
    total = values.sum(dim=1)
    return torch.where(total > 0, (values * weights).sum(dim=1) / (count * total.clamp(min=1e-300)), 0 * total)
