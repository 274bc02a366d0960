"""Differentiable rankings behind one contract: scores (B, N) and budgets (S,) to S masks (B, N) with sum k.

Adding one = one file and one line in `RELAXATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.config import RankingConfig
from aha_core.protocols import Relaxation
from aha_core.ranking.gumbel_sinkhorn import GumbelSinkhorn
from aha_core.ranking.soft_topk import SoftTopK

Generators = Sequence[torch.Generator]

RELAXATIONS: dict[str, Callable[[RankingConfig, float, Generators | None], Relaxation]] = {
    "gumbel_sinkhorn": lambda config, tau, noise: GumbelSinkhorn(tau, config.iterations, noise),
    "soft_topk": lambda config, tau, noise: SoftTopK(tau),
}


def make_relaxation(config: RankingConfig, tau: float, generators: Generators | None = None) -> Relaxation:
    """The configured relaxation at temperature tau.

    Args:
        generators: one per image, the source of Gumbel noise; no noise where None or where the configuration
            switches it off.
    """
    return RELAXATIONS[config.method](config, tau, generators if config.noise else None)


def temperature(config: RankingConfig, progress: float) -> float:
    """tau(t) = tau_start + t (tau_end - tau_start), for t in [0, 1]."""
    return config.tau_start + progress * (config.tau_end - config.tau_start)


def standardise(scores: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """(s - mean) / std over each image, so that tau alone sets the sharpness; constant scores become 0."""
    flat = scores.flatten(1).float()
    centred = flat - flat.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return (centred * torch.rsqrt(variance + 1e-12)).view_as(scores)
