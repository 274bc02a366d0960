"""Entropic transport from N cells to S + 1 bins: all S masks at once, in O(S N).

    P_jb = softmax_b(c_b s_j + g_b)      with g solved so that sum_j P_jb = w_b = k_b - k_{b-1}
    m_b  = sum of the first b bins       (k_0 = 0, k_{S+1} = N: bin 0 holds the most important cells)

Every cell is spread over the bins with mass 1 and every bin receives the gap between two budgets, so the masks have sum
k_b, are nested and lie in [0, 1]. It is the paper's Sinkhorn problem with the rank slots between two budgets merged.

Edge width: neighbouring bins differ by c_b - c_{b+1} = 1 / eps_b. A lone edge is the logistic threshold of scale eps_b
(soft top-k); edges nearer than that blur each other, with variance eps d - d^2 / 12 at distance d. Hence

    eps = tau (r + 1 / r) / 2,  r = min(d / (2 pi tau), 1)

gives each edge a logistic scale of about tau whatever S is; d is the distance of edges for standard normal scores.

Solver: Newton's method on the concave semi-dual sum_b w_b g_b - sum_j logsumexp_b(c_b s_j + g_b), whose S x S Hessian
H = diag(column sums) - P^T P is cheap, started at the hard thresholds; it stops at a marginal residual. Gradient: with
z = c s, J_j = diag(P_j) - P_j P_j^T and upstream G on P,

    dL/dz_j = J_j (G_j - v),  H v = sum_j J_j G_j      (implicit function theorem; nothing of the solver is stored)

Sources: Cuturi et al. (2019), "Differentiable Ranks and Sorting using Optimal Transport"; Brauer et al. (2017), "A
Sinkhorn-Newton method for entropic optimal transport"; merging of rank slots: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.ranking.gumbel_sinkhorn import gumbel
from aha_core.ranking.rounding import round_plan

RESIDUAL = 1e-6  # of N, the largest error of a bin's mass at which Newton stops; rounding removes the rest
NEWTON_STEPS = 50
HALVINGS = 12  # of a Newton step that does not raise the dual


class Transport:
    """Relaxation by transport to bins.

    Args:
        tau: width of the mask edges in units of the scores (standardised to standard deviation 1).
        generators: one per image for Gumbel noise added to every c_b s_j; None = no noise.
    """

    def __init__(self, tau: float, generators: Sequence[torch.Generator] | None = None) -> None:
        self.tau, self.generators = tau, generators

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        count = scores.shape[1]
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        wide = wide - wide.mean(dim=1, keepdim=True)
        budgets = k.to(device="cpu", dtype=torch.float64)
        budgets = torch.where(budgets < RESIDUAL * count, 0.0, budgets)
        budgets = torch.where(budgets > (1 - RESIDUAL) * count, float(count), budgets)
        inner, place = budgets[(budgets > 0) & (budgets < count)].unique(return_inverse=True)
        ends = torch.stack([torch.zeros_like(wide), torch.ones_like(wide)])
        if not len(inner):
            return ends[(budgets > 0).long().to(wide.device)].to(scores.dtype)
        slopes = bin_slopes(inner / count, self.tau).to(wide)
        logits = slopes[:, None] * wide[:, None, :]
        if self.generators is not None:
            logits = logits + gumbel(logits, self.generators)
        edges = torch.cat([torch.zeros(1), inner, torch.tensor([count])]).double()
        masses = edges.diff().to(wide)
        plan: Tensor = _Plan.apply(logits, masses, start_potentials(wide, inner, slopes))
        nested = torch.cat([ends, plan[:, :-1].cumsum(dim=1).transpose(0, 1)])
        choice = (budgets >= count).long()
        choice[(budgets > 0) & (budgets < count)] = place + 2
        return nested[choice.to(wide.device)].to(scores.dtype)


def bin_slopes(shares: Float[Tensor, "S"], tau: float) -> Float[Tensor, "S1"]:
    """c_b of the S + 1 bins, falling to 0, for budgets at these shares of the cells (rising, inside (0, 1))."""
    edges = torch.special.ndtri(1 - shares.double())  # falling thresholds of standard normal scores
    reach = 2 * math.pi * tau
    gaps = (-edges.diff()).clamp_max(reach)
    outer = torch.full((1,), reach, dtype=torch.float64)
    spacing = (torch.cat([outer, gaps]) + torch.cat([gaps, outer])) / 2  # mean distance to both neighbours
    r = spacing / reach
    steps = 2 / (tau * (r + 1 / r))
    return torch.cat([steps.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])


@torch.no_grad()
def start_potentials(
    scores: Float[Tensor, "B N"], budgets: Float[Tensor, "S"], slopes: Float[Tensor, "S1"]
) -> Float[Tensor, "B S1"]:
    """Potentials whose bins meet at the hard thresholds: exact as tau goes to 0."""
    falling = scores.sort(dim=1, descending=True).values
    last = scores.shape[1] - 1
    above = (budgets.ceil().long() - 1).clamp(0, last).to(scores.device)
    below = budgets.floor().long().clamp(0, last).to(scores.device)
    thresholds = (falling[:, above] + falling[:, below]) / 2
    rises = (slopes[:-1] - slopes[1:]) * thresholds
    return torch.cat([torch.zeros_like(rises[:, :1]), rises.cumsum(dim=1)], dim=1)


class _Plan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, masses: Tensor, potentials: Tensor) -> Tensor:
        plan = solve(logits, masses, potentials)
        ctx.save_for_backward(plan)
        return round_plan(plan, masses, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (plan,), (upstream,) = ctx.saved_tensors, gradients
        pushed = _softmax_jacobian(plan, upstream)
        shift = newton_direction(plan, pushed.sum(dim=2))
        return _softmax_jacobian(plan, upstream - shift[:, :, None]), None, None


def _softmax_jacobian(plan: Float[Tensor, "B M N"], direction: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    """J_j d_j of every cell: P d - P <P, d>."""
    product = plan * direction
    return product - plan * product.sum(dim=1, keepdim=True)


def newton_direction(plan: Float[Tensor, "B M N"], residual: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
    """Solution d of H d = residual, with H = diag(column sums) - P P^T, in float64.

    H does not see a common shift of the potentials and vanishes as the plan becomes hard: a rank-one term and a small
    ridge stand in.
    """
    wide = plan.double()
    hessian = torch.diag_embed(wide.sum(dim=2)) - wide @ wide.transpose(1, 2)
    bins = hessian.shape[1]
    scale = hessian.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    identity = torch.eye(bins, device=plan.device, dtype=torch.float64)
    regular = hessian + scale / bins + (1e-10 * scale + 1e-30) * identity
    return torch.linalg.solve(regular, residual.double()[..., None])[..., 0].to(plan.dtype)


@torch.no_grad()
def solve(
    logits: Float[Tensor, "B M N"], masses: Float[Tensor, "M"], potentials: Float[Tensor, "B M"]
) -> Float[Tensor, "B M N"]:
    """The plan whose bins have the wanted masses up to RESIDUAL * N: Newton steps, halved until the dual rises.

    In float64: potentials are of the size 1 / tau, whose rounding in float32 would be a floor of the residual.
    """
    count, dtype = logits.shape[2], logits.dtype
    logits, masses, potentials = logits.double(), masses.double(), potentials.double()

    def dual(candidate: Tensor) -> Tensor:
        shifted = logits + candidate[:, :, None]
        return (masses * candidate).sum(dim=1) - shifted.logsumexp(dim=1).sum(dim=1)

    value = dual(potentials)
    for _ in range(NEWTON_STEPS):
        plan = (logits + potentials[:, :, None]).softmax(dim=1)
        residual = masses - plan.sum(dim=2)
        if residual.abs().max() <= RESIDUAL * count:
            return plan.to(dtype)
        step = newton_direction(plan, residual).clamp(-50, 50)  # e^50 of a bin's mass is far enough for one step
        floor = value - 1e-12 * (1 + value.abs())  # near the optimum the dual rises by less than it is rounded
        length = torch.ones_like(value)[:, None]
        for _ in range(HALVINGS):
            new = dual(potentials + length * step)
            if bool((new >= floor).all()):
                break
            length = torch.where((new < floor)[:, None], length / 2, length)
        else:
            new = dual(potentials + length * step)
        potentials, value = potentials + length * step, new
    return (logits + potentials[:, :, None]).softmax(dim=1).to(dtype)
