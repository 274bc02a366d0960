"""Refinement: T gradient steps on one image's map with the training objective.

    A_0 = standardise(explainer's map);  A_{t+1} = A_t - Adam(grad of AUC_del(A_t) + 1 - AUC_lif(A_t))

Noise is off, the temperature is one of its own, every reference image counts in every step, and the
fractions are a stratified draw that depends on (seed, step) alone, so a map does not depend on its batch. The step
lives on a grid of cells and is added to the map bilinearly: the explainer's fine structure stays. Source: "Learn
to Rank" (arXiv 2604.05819), test-time refinement.

Cost of a step: 2 * fractions * references masked forward and backward passes of the target per image.

Early stop, with patience P > 0, for each image by itself: after step t it stops when

    mean(J_{t-P+1} .. J_t) >= mean(J_{t-2P+1} .. J_{t-P}) - ROUNDING        J_t = AUC_del(A_t) + 1 - AUC_lif(A_t)

Each step draws its own fractions, so two values of J differ even for the same map; means of P steps differ P times less
in variance, and no draw is in both. An image takes 2 P steps at least; one that has stopped costs no more passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.config import PerturbationConfig, RankingConfig, RefineConfig
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator, removal_areas, removal_masks
from aha_core.perturbation import reference_images
from aha_core.ranking import make_relaxation, standardise

# The embedded profile's settings: every reference, three strata, cells of about 2 % of the image's side.
DEFAULT_REFINEMENT = RefineConfig(
    steps=5, patience=0, lr=0.3, fractions=3, references=("black", "mean", "blur"), grid=28, tau=0.15, precision="auto"
)
ROUNDING = 1e-5  # of the mean score: a rise that depends on the batch is none


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
) -> Refinement:
    """All intermediate maps of `config.steps` refinement steps; the inputs are not changed."""
    start = standardise(maps.detach())
    grid = config.grid
    change = torch.zeros(len(x), 1, grid, grid, device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=config.lr)
    relaxation = make_relaxation(ranking.model_copy(update={"standardise": True}), config.tau, grid**2)
    references = [reference_images(x, name, perturbation) for name in config.references]

    def current(rows: Tensor) -> Tensor:
        return start[rows] + F.interpolate(change[rows], size=x.shape[-2:], mode="bilinear", align_corners=False)

    history, weights = [start], torch.full((config.fractions,), 1.0 / config.fractions)
    objective = torch.full((config.steps, len(x)), torch.nan, device=x.device)
    taken = torch.zeros(len(x), dtype=torch.long, device=x.device)
    going = torch.arange(len(x), device=x.device)  # the images that have not stopped
    for step in range(config.steps):
        jitter = torch.rand(2, config.fractions, generator=generator(seed, step))
        fractions = ((torch.arange(config.fractions) + jitter) / config.fractions).flatten()
        optimiser.zero_grad(set_to_none=True)
        total = torch.zeros(len(going), device=x.device)
        for reference in references:
            masks = removal_masks(current(going), relaxation, grid, fractions, standardised=True)
            deletion, lif = removal_areas(passes(x[going], classes[going], masks, reference[going]), weights)
            loss = (deletion + 1 - lif) / len(references)
            loss.sum().backward()
            total += loss.detach()
        optimiser.step()  # moves the cells of stopped images too, which nothing reads again
        latest = history[-1].clone()
        latest[going] = current(going).detach()
        history.append(latest)
        objective[step, going] = total
        taken[going] += 1
        going = going[~stalled(objective[: step + 1, going], config.patience)]
        if not len(going):
            break
    history += history[-1:] * (config.steps + 1 - len(history))
    return Refinement(torch.stack(history), objective, taken)


def stalled(objective: Float[Tensor, "T B"], patience: int) -> Bool[Tensor, "B"]:
    """Which images stop after these steps: the rule above; none before 2 P steps, none for patience 0."""
    if not patience or len(objective) < 2 * patience:
        return torch.zeros(objective.shape[1], dtype=torch.bool, device=objective.device)
    before, last = objective[-2 * patience :].unflatten(0, (2, patience)).mean(dim=1)
    return last >= before - ROUNDING
