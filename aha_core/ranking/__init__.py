"""Differentiable rankings behind one contract: scores (B, N) and budgets (S,) to S masks (B, N) with sum k.

Adding one = one file and one entry in `RELAXATIONS`.

Temperature. Standardised scores (mean 0, standard deviation 1 per image) make one tau mean the same for every image
and method: the logistic scale of a mask's edge at half the budget of normal scores, m ~ sigmoid((s - theta) / tau), of
standard deviation pi tau / sqrt(3). Each entry converts it to its method's own parameter by the edge width that its
formula gives. Scores that are not standardised (the paper's preset) are ranked with tau as that own parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.config import RankingConfig
from aha_core.protocols import Relaxation
from aha_core.ranking.gumbel_sinkhorn import GumbelSinkhorn
from aha_core.ranking.hard import HardTopK
from aha_core.ranking.lapsum import LapSum
from aha_core.ranking.soft_topk import SoftTopK
from aha_core.ranking.sorting import NeuralSort, SoftSort
from aha_core.ranking.transport import Transport

Generators = Sequence[torch.Generator]

# Laplace scale b with the logistic's standard deviation: sqrt(2) b = pi tau / sqrt(3).
LAPLACE = math.pi / math.sqrt(6)
# An N x N kernel exp(2 a s / t) has edges of variance t q' / 2 in the scores, q' = sqrt(2 pi) the slope of the normal
# quantile function at one half; equal to (pi tau)^2 / 3 for t = KERNEL tau^2.
KERNEL = 2 * math.pi**2 / (3 * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class RelaxationSpec:
    """One line of the registry.

    cost: time and memory in the number of cells N and budgets S; quadratic: whether memory is O(N^2).
    own_tau: (edge width tau, N) to the method's own temperature; make: (own tau, Sinkhorn iterations, noise).
    """

    name: str
    source: str
    cost: str
    quadratic: bool
    own_tau: Callable[[float, int], float]
    make: Callable[[float, int, Generators | None], Relaxation]


RELAXATIONS: dict[str, RelaxationSpec] = {
    spec.name: spec
    for spec in (
        RelaxationSpec(
            "soft_topk", "two-bin entropic transport (Xie et al. 2020)", "O(S N) per Newton step", False,
            lambda tau, count: tau, lambda tau, iterations, noise: SoftTopK(tau),
        ),
        RelaxationSpec(
            "lapsum", "LapSum (Struski et al. 2025)", "O(N log N + S N)", False,
            lambda tau, count: LAPLACE * tau, lambda tau, iterations, noise: LapSum(tau),
        ),
        RelaxationSpec(
            "transport", "entropic transport to S + 1 bins (Cuturi et al. 2019)", "O(S N) per Newton step", False,
            lambda tau, count: tau, lambda tau, iterations, noise: Transport(tau, noise),
        ),
        RelaxationSpec(
            "gumbel_sinkhorn", "Learn to Rank; Mena et al. 2018", "O(iterations N^2)", True,
            lambda tau, count: KERNEL * tau**2, GumbelSinkhorn,
        ),
        RelaxationSpec(
            "sinkhorn", "the same without noise", "O(iterations N^2)", True,
            lambda tau, count: KERNEL * tau**2,
            lambda tau, iterations, noise: GumbelSinkhorn(tau, iterations, None, rounded=True),
        ),
        RelaxationSpec(
            "softsort", "Prillo & Eisenschlos 2020", "O(N^2)", True,
            lambda tau, count: LAPLACE * tau, lambda tau, iterations, noise: SoftSort(tau),
        ),
        RelaxationSpec(
            "neuralsort", "Grover et al. 2019", "O(N^2)", True,
            lambda tau, count: count * KERNEL * tau**2, lambda tau, iterations, noise: NeuralSort(tau),
        ),
    )
}  # fmt: skip


def make_relaxation(config: RankingConfig, tau: float, cells: int, generators: Generators | None = None) -> Relaxation:
    """The configured relaxation of N = `cells` scores at temperature tau (see the module).

    Args:
        generators: one per image, the source of Gumbel noise; no noise where None or where the configuration
            switches it off.
    """
    spec = RELAXATIONS[config.method]
    own = spec.own_tau(tau, cells) if config.standardise else tau
    return spec.make(own, config.iterations, generators if config.noise else None)


def temperature(config: RankingConfig, progress: float) -> float:
    """tau(t) = tau_start + t (tau_end - tau_start), for t in [0, 1]."""
    return config.tau_start + progress * (config.tau_end - config.tau_start)


def standardise(scores: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """(s - mean) / std over each image, so that tau alone sets the sharpness; constant scores become 0.

    They are divided by the largest of |s| first, so that the result does not depend on their unit.
    """
    flat = scores.flatten(1).float()
    flat = flat / flat.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    centred = flat - flat.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return (centred * torch.rsqrt(variance + 1e-12)).view_as(scores)


def marginal_residual(relaxation: Relaxation, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> float:
    """The largest violation of the contract: |sum m - k| of a mask, or |m - 1| of a cell at k = N.

    A transport plan of the ranking has both marginals exact; unconverged iterations do not.
    """
    count = scores.shape[1]
    masks = relaxation.soft_topk_masks(scores, torch.cat([k.cpu(), torch.tensor([float(count)])]))
    sums = (masks.double().sum(dim=-1)[:-1] - k.double().to(masks.device)[:, None]).abs().max()
    return max(float(sums), float((masks[-1] - 1).abs().max()))


__all__ = [
    "RELAXATIONS", "HardTopK", "RelaxationSpec", "make_relaxation", "marginal_residual", "standardise",
    "temperature",
]  # fmt: skip
