"""How far the soft deletion and insertion scores, which are optimised, follow the hard ones, which are reported.

For maps A, a relaxation at temperature tau and the S midpoint fractions p_i of a grid,

    soft AUC = 1/S sum_i f_c(image under the soft mask of p_i N cells),    hard AUC = the same under exact masks

Reported: Pearson correlation over images of deletion AUC and of insertion AUC, over single scores (image x fraction x
direction), and the mean soft - hard of both areas (bias).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import RankingConfig
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator, removal_masks
from aha_core.ranking import HardTopK, make_relaxation


@dataclass(frozen=True)
class Correlation:
    """deletion, insertion: over images; scores: over single masked images; bias_*: mean soft - hard."""

    deletion: float
    insertion: float
    scores: float
    bias_deletion: float
    bias_insertion: float


@torch.no_grad()
def soft_hard_correlation(
    passes: MaskedPasses,
    x: Float[Tensor, "B 3 H W"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    ranking: RankingConfig,
    tau: float,
    grid: int,
    fractions: int,
    seed: int,
) -> Correlation:
    """Correlation of soft with hard scores of the same maps, masks on a grid of grid^2 cells."""
    middles = ((torch.arange(fractions) + 0.5) / fractions).repeat(2)
    noise = [generator(seed, 8, image) for image in range(len(x))]
    soft = make_relaxation(ranking, tau, grid * grid, noise)
    hard = HardTopK(range(seed, seed + len(x)))
    both = [
        passes(x, classes, removal_masks(maps, relaxation, grid, middles, ranking.standardise), reference).double()
        for relaxation in (soft, hard)
    ]
    (soft_deletion, soft_lif), (hard_deletion, hard_lif) = ((part.mean(dim=0) for part in s.chunk(2)) for s in both)
    return Correlation(
        deletion=_pearson(soft_deletion, hard_deletion),
        insertion=_pearson(soft_lif, hard_lif),
        scores=_pearson(both[0].flatten(), both[1].flatten()),
        bias_deletion=float((soft_deletion - hard_deletion).mean()),
        bias_insertion=float((soft_lif - hard_lif).mean()),
    )


def _pearson(a: Float[Tensor, "M"], b: Float[Tensor, "M"]) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
