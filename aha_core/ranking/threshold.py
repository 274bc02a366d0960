"""What the threshold relaxations share: the gradient of masks whose sum is fixed.

    m_j = F((s_j - theta) / tau)      with theta solved so that sum_j m_j = k

for a distribution function F with density f. theta moves with the scores, so with w_j = f((s_j - theta) / tau) / tau
and upstream gradient g,

    dL/ds_j = w_j (g_j - sum_i w_i g_i / sum_i w_i)

(implicit function theorem): nothing of the solver is stored but masks, and theta itself is never needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Solver = Callable[[Tensor, Tensor, float], Tensor]  # (scores, budgets, tau) to masks
Density = Callable[[Tensor], Tensor]  # F(u) to f(u)


def threshold_masks(
    scores: Float[Tensor, "B N"], k: Float[Tensor, "S"], tau: float, solve: Solver, density: Density
) -> Float[Tensor, "S B N"]:
    """Masks of `solve`, with the implicit gradient; computed in float32 at least, returned in the scores' type.

    Args:
        solve: exact masks; needs no gradient.
        density: f(u) as a function of F(u).
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    masks: Tensor = _Threshold.apply(wide, k.to(wide).clamp(0, scores.shape[1]), tau, solve, density)
    return masks.to(scores.dtype)


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: Tensor, tau: float, solve: Solver, density: Density) -> Tensor:
        masks = solve(scores, k, tau)
        ctx.save_for_backward(masks)
        ctx.tau, ctx.density = tau, density
        return masks

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (masks,), (upstream,) = ctx.saved_tensors, gradients
        weights = ctx.density(masks)
        total = weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(masks.dtype).tiny)
        mean = (weights * upstream).sum(dim=-1, keepdim=True) / total
        return (weights * (upstream - mean)).sum(dim=0) / ctx.tau, None, None, None, None
