"""The gradient that a relaxation stands for, by Monte Carlo on a real target.

The hard objective J(s) = AUC_del(s) - AUC_lif(s), with masks of exactly the k most important cells, is piecewise
constant in the scores. Smoothed by noise of the relaxation's own edge width it has a gradient:

    J_sigma(s) = E J(s + sigma e),   grad J_sigma = E [(J(s + sigma e) - J(s - sigma e)) e] / (2 sigma),  e ~ N(0, I)

with sigma = pi tau / sqrt(3), the standard deviation of a logistic edge of scale tau. (Berthet et al., "Learning with
Differentiable Perturbed Optimizers", 2020; antithetic estimator: Salimans et al., "Evolution Strategies", 2017.)

The estimate is noisy, so the cosine with it is bounded: two independent halves agree with cosine r, and no gradient can
be expected to agree with their mean better than sqrt(2 r / (1 + r)) (Spearman-Brown).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.protocols import Relaxation
from aha_core.ranking import HardTopK, standardise


@dataclass(frozen=True)
class Agreement:
    """cosine: with the estimate, mean over images; ceiling: what a perfect gradient would reach."""

    cosine: float
    ceiling: float


@dataclass(frozen=True)
class Problem:
    """Images, the point at which gradients are compared, and the estimate's two halves."""

    passes: MaskedPasses
    x: Float[Tensor, "B 3 H W"]
    classes: Int[Tensor, "B"]
    reference: Float[Tensor, "B 3 H W"]
    scores: Float[Tensor, "B N"]
    fractions: Float[Tensor, "S"]
    halves: Float[Tensor, "2 B N"]

    def agreement(self, relaxation: Relaxation) -> Agreement:
        """Cosine of a relaxation's gradient, after the common shift is taken out of both."""
        leaf = self.scores.clone().requires_grad_()
        objective(self.passes, self.x, self.classes, self.reference, leaf, relaxation, self.fractions).sum().backward()
        assert leaf.grad is not None
        own, first, second = (_centred(one) for one in (leaf.grad, *self.halves))
        cosine = torch.cosine_similarity(own, first + second, dim=1).mean()
        half = torch.cosine_similarity(first, second, dim=1).mean().clamp_min(0)
        return Agreement(float(cosine), float(torch.sqrt(2 * half / (1 + half))))


def estimate(
    passes: MaskedPasses,
    x: Float[Tensor, "B 3 H W"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "B 3 H W"],
    grid: int,
    tau: float,
    pairs: int,
    budgets: int,
    seed: int,
) -> Problem:
    """The Monte-Carlo gradient at seeded standard normal scores, from `pairs` antithetic pairs per image.

    Passes through the target: 4 * budgets * pairs per image.
    """
    cells, sigma = grid * grid, math.pi * tau / math.sqrt(3)
    scores = standardise(torch.randn(len(x), cells, generator=generator(seed, 5, grid))).to(x)
    fractions = (torch.arange(budgets) + 0.5) / budgets
    halves = torch.zeros(2, len(x), cells, device=x.device)
    for pair in range(pairs):
        source = generator(seed, 6, grid, pair)
        noise = torch.randn(len(x), cells, generator=source).to(x)
        with torch.no_grad():
            values = [
                objective(passes, x, classes, reference, scores + sign * sigma * noise, _hard(len(x), seed), fractions)
                for sign in (1, -1)
            ]
        halves[pair % 2] += (values[0] - values[1])[:, None] * noise / (2 * sigma)
    return Problem(passes, x, classes, reference, scores, fractions, halves)


def objective(
    passes: MaskedPasses, x: Tensor, classes: Tensor, reference: Tensor, scores: Float[Tensor, "B N"],
    relaxation: Relaxation, fractions: Float[Tensor, "S"],
) -> Float[Tensor, "B"]:  # fmt: skip
    """AUC_del - AUC_lif by the midpoint rule."""
    budgets = fractions * scores.shape[1]
    masks = torch.cat([relaxation.soft_topk_masks(scores, budgets), relaxation.soft_topk_masks(-scores, budgets)])
    deletion, lif = passes(x, classes, masks, reference).chunk(2)
    return (deletion - lif).mean(dim=0)


def _hard(batch: int, seed: int) -> Relaxation:
    return HardTopK(range(seed, seed + batch))


def _centred(gradient: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    return gradient - gradient.mean(dim=1, keepdim=True)
