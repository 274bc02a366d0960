"""Refinement: T gradient steps on one image's map, or on its decoder, with the training objective.

    A_0 = standardise(explainer's map);  A_{t+1} = B + D_{t+1}
    D: a change (`aha_core.changes`), moved against the gradients of AUC_del(A_t) + 1 - AUC_lif(A_t) under each
       reference (`aha_core.descent`)

B is the hybrid map of A_0 (`aha_core.hybrid`), at a twentieth of a step's cost, or A_0 itself.
Noise is off, the temperature is one of its own, every reference image counts in every step, and the
fractions are a stratified draw that depends on (seed, step) alone, so a map does not depend on its batch. D lives on a
grid of cells and is added to the map bilinearly, so that the explainer's fine structure stays, or in a copy of the
decoder's weights. Source: "Learn to Rank" (arXiv 2604.05819), test-time refinement.

Cost of a step: 2 * fractions * references masked forward and backward passes of the target per image; B: one. In
passes, a backward one counting as two: `aha_core.budget`.

Early stop, with patience P > 0, for each image by itself: before step t = P, 2P, … it stops when

    J(A_t) >= J(A_{t-P}) - ROUNDING        J = AUC_del + 1 - AUC_lif at the middles (j + 1/2) / S of the S strata

with J(B) for t = 0. The losses of the steps say little about progress: each step draws its own fractions, which move
the loss of all images more than the step does. So J is measured at fractions that stay the same and that no step
optimises, which costs 2 * fractions * references forward passes every P steps, a third of a step. An image that has
stopped costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.changes import Cells, Change
from aha_core.config import PerturbationConfig, RankingConfig, RefineConfig
from aha_core.descent import DESCENTS
from aha_core.hybrid import cells_of, hybrid_maps
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator, removal_areas, removal_masks
from aha_core.perturbation import reference_images
from aha_core.ranking import make_relaxation, standardise

# For photographs of 224 pixels: every reference, three strata, cells of 2 pixels.
DEFAULT_REFINEMENT = RefineConfig(
    steps=5,
    change="map",
    patience=0,
    hybrid=True,
    hybrid_weight=0.2,
    optimiser="normalised",
    lr=0.15,
    fractions=3,
    references=("black", "mean", "blur"),
    grid=112,
    tau=0.15,
    precision="auto",
)
ROUNDING = 1e-5  # of J, which depends on the batch that much


@dataclass(frozen=True)
class Refinement:
    """What T steps gave.

    maps: A_0 .. A_T; an image's map stays as it is once the image has stopped.
    objective: AUC_del + 1 - AUC_lif that each step started from, mean of references; NaN after the stop.
    taken: steps of each image, T where it never stopped.
    """

    maps: Float[Tensor, "T1 B 1 H W"]
    objective: Float[Tensor, "T B"]
    taken: Int[Tensor, "B"]


def refine(
    passes: MaskedPasses,
    x: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    classes: Int[Tensor, "B"],
    config: RefineConfig,
    ranking: RankingConfig,
    perturbation: PerturbationConfig,
    seed: int,
    change: Change | None = None,
) -> Refinement:
    """All intermediate maps of `config.steps` refinement steps; the inputs are not changed.

    Args:
        change: what the steps move; cells of the steps' grid where None.
    """
    start = standardise(maps.detach())
    grid, base = cells_of(config.grid, x), start
    if config.hybrid and config.steps:
        base = hybrid_maps(passes, x, maps, classes, perturbation, grid, config.hybrid_weight)
    change = change or Cells(len(x), grid, (x.shape[2], x.shape[3]), x.device)
    descend = DESCENTS[config.optimiser](change.parameters, config.lr)
    relaxation = make_relaxation(ranking.model_copy(update={"standardise": True}), config.tau, grid**2)
    references = [reference_images(x, name, perturbation) for name in config.references]

    def current(rows: Tensor) -> Tensor:
        return base[rows] + change(rows)

    def losses(rows: Tensor, places: Tensor) -> Iterator[Tensor]:
        """Of these images, each reference's share; a fraction in each stratum at these places in [0, 1]."""
        fractions = ((torch.arange(config.fractions) + places) / config.fractions).flatten()
        for reference in references:
            masks = removal_masks(current(rows), relaxation, grid, fractions, standardised=True)
            deletion, lif = removal_areas(passes(x[rows], classes[rows], masks, reference[rows]), weights)
            yield (deletion + 1 - lif) / len(references)

    middles = torch.full((2, config.fractions), 0.5)
    history, weights = [start], torch.full((config.fractions,), 1.0 / config.fractions)
    objective = torch.full((config.steps, len(x)), torch.nan, device=x.device)
    taken = torch.zeros(len(x), dtype=torch.long, device=x.device)
    going = torch.arange(len(x), device=x.device)  # the images that have not stopped
    reached = torch.full((len(x),), torch.inf, device=x.device)  # J, P steps ago
    for step in range(config.steps):
        if 0 < config.patience < config.steps and step % config.patience == 0:
            with torch.no_grad():
                now = torch.stack(list(losses(going, middles))).sum(dim=0)
            rising = now < reached[going] - ROUNDING
            reached[going] = now
            going = going[rising]
            if not len(going):
                break
        total, gradients = torch.zeros(len(going), device=x.device), []
        for loss in losses(going, torch.rand(2, config.fractions, generator=generator(seed, step))):
            gradients.append(torch.autograd.grad(loss.sum(), change.parameters, materialize_grads=True))
            total += loss.detach()
        descend(gradients)
        latest = history[-1].clone()
        latest[going] = current(going).detach()
        history.append(latest)
        objective[step, going] = total
        taken[going] += 1
    history += history[-1:] * (config.steps + 1 - len(history))
    return Refinement(torch.stack(history), objective, taken)
