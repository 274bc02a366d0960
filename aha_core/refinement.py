"""Refinement: T gradient steps on one image's map with the training objective.

    A_0 = standardise(explainer's map);  A_{t+1} = A_t - Adam(grad of AUC_del(A_t) + 1 - AUC_lif(A_t))

Noise is off, the temperature is the last one of training, every reference image counts in every step, and the
fractions are a stratified draw that depends on (seed, step) alone, so a map does not depend on its batch. The step
lives on a grid of cells and is added to the map bilinearly: the explainer's fine structure stays. Source: "Learn
to Rank" (arXiv 2604.05819), test-time refinement.

Cost of a step: 2 * fractions * references masked forward and backward passes of the target per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import PerturbationConfig, RankingConfig, RefineConfig
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator, removal_areas, removal_masks
from aha_core.perturbation import reference_images
from aha_core.ranking import make_relaxation, standardise

# The embedded profile's settings: every reference, three strata, cells of about 2 % of the image's side.
DEFAULT_REFINEMENT = RefineConfig(
    steps=5, lr=0.3, fractions=3, references=("black", "mean", "blur"), grid=28, precision="auto"
)


@dataclass(frozen=True)
class Refinement:
    """maps: A_0 .. A_T; objective: AUC_del + 1 - AUC_lif that each of the T steps started from, mean of references."""

    maps: Float[Tensor, "T1 B 1 H W"]
    objective: Float[Tensor, "T B"]


def refine(
    passes: MaskedPasses,
    x: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    classes: Int[Tensor, "B"],
    config: RefineConfig,
    ranking: RankingConfig,
    perturbation: PerturbationConfig,
    seed: int,
) -> Refinement:
    """All intermediate maps of `config.steps` refinement steps; the inputs are not changed."""
    start = standardise(maps.detach())
    grid = config.grid
    change = torch.zeros(len(x), 1, grid, grid, device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=config.lr)
    relaxation = make_relaxation(ranking, ranking.tau_end, grid**2)
    references = [reference_images(x, name, perturbation) for name in config.references]

    def current() -> Tensor:
        return start + F.interpolate(change, size=x.shape[-2:], mode="bilinear", align_corners=False)

    history, objective = [start], []
    weights = torch.full((config.fractions,), 1.0 / config.fractions)
    for step in range(config.steps):
        jitter = torch.rand(2, config.fractions, generator=generator(seed, step))
        fractions = ((torch.arange(config.fractions) + jitter) / config.fractions).flatten()
        optimiser.zero_grad(set_to_none=True)
        total = torch.zeros(len(x), device=x.device)
        for reference in references:
            masks = removal_masks(current(), relaxation, grid, fractions, standardised=True)
            deletion, lif = removal_areas(passes(x, classes, masks, reference), weights)
            loss = (deletion + 1 - lif) / len(references)
            loss.sum().backward()
            total += loss.detach()
        optimiser.step()
        history.append(current().detach())
        objective.append(total)
    return Refinement(torch.stack(history), torch.stack(objective) if objective else start.new_zeros(0, len(x)))
