"""From almost doubly stochastic to exactly: the rounding of Altschuler, Weed and Rigollet (2017), Algorithm 2.

    P' = P min(1, a_i / row_i), then P' = P' min(1, b_j / column_j);  r = a - rows(P'), t = b - columns(P')
    P'' = P' + r t^T / sum(t)

P'' >= 0 has row sums a and column sums b exactly, and is as near to P as P was to feasible. It makes masks of any
row-stochastic relaxation (SoftSort, NeuralSort, unconverged Sinkhorn) lie in [0, 1] without losing sum k or monotony.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def round_plan(
    plan: Float[Tensor, "B M N"], rows: Float[Tensor, "M"] | float, columns: Float[Tensor, "N"] | float
) -> Float[Tensor, "B M N"]:
    """The nearest plan, up to the rounding's factor, with the wanted marginals; differentiable almost everywhere.

    Args:
        rows, columns: wanted sums, of equal total.
    """
    tiny = torch.finfo(plan.dtype).tiny
    wanted_rows = torch.as_tensor(rows, dtype=plan.dtype, device=plan.device).expand(plan.shape[1])
    wanted_columns = torch.as_tensor(columns, dtype=plan.dtype, device=plan.device).expand(plan.shape[2])
    plan = plan * (wanted_rows / plan.sum(dim=2).clamp_min(tiny)).clamp_max(1)[:, :, None]
    plan = plan * (wanted_columns / plan.sum(dim=1).clamp_min(tiny)).clamp_max(1)[:, None, :]
    missing_rows = (wanted_rows - plan.sum(dim=2)).clamp_min(0)
    missing_columns = (wanted_columns - plan.sum(dim=1)).clamp_min(0)
    total = missing_columns.sum(dim=1, keepdim=True).clamp_min(tiny)
    return plan + missing_rows[:, :, None] * (missing_columns / total)[:, None, :]


def prefix_masks(permutation: Float[Tensor, "B N N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
    """Sum of the first k rows (rank slots, most important first), linear between integers."""
    cumulative = torch.cumsum(permutation, dim=1)
    cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=1)  # (B, N + 1, N)
    k = k.to(permutation).clamp(0, permutation.shape[1])
    below, above = k.floor().long(), k.ceil().long()
    return torch.lerp(cumulative[:, below], cumulative[:, above], (k - below)[None, :, None]).transpose(0, 1)
