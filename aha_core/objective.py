"""The loss: deletion AUC down, insertion AUC up, through soft masks.

    loss = AUC_del + (1 - AUC_lif) + lambda mean(relu(A - boxmean(A))^2)
    AUC  = sum_i w_i f_c(image with the fraction p_i removed)

AUC_del removes the most important cells first, AUC_lif the least important first (insertion in the other
direction). The fractions p_i and weights w_i are either the trapezoid rule over a fixed grid (paper) or one uniform
draw in each of S equal strata, an unbiased estimate of the same integral. The end points of the grid are the image and
the reference themselves: they have no gradient, the same weight in both areas, and need no masked pass. Source:
"Learn to Rank" (arXiv 2604.05819), objective and released settings.

Every random draw of a step is a function of (seed, step, position in the global batch), so that results do not
depend on the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import ObjectiveConfig, RankingConfig, ReferenceName, TrainingRole
from aha_core.protocols import Relaxation
from aha_core.ranking import standardise


def generator(*key: int) -> torch.Generator:
    """A CPU generator that is a function of the key alone (its length counts: SeedSequence ignores final zeros)."""
    (state,) = np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


@dataclass(frozen=True)
class StepDraw:
    """What is random in a training step and common to the batch.

    fractions: removed shares p inside (0, 1), P = 2 S of them: deletion, then least-important-first.
    weights: quadrature weights of one direction; end_weight: that of each end point, 0 where there are none.
    """

    grid: int
    reference: ReferenceName
    fractions: Float[Tensor, "P"]
    weights: Float[Tensor, "S"]
    end_weight: float


def draw_step(ranking: RankingConfig, objective: ObjectiveConfig, seed: int, step: int) -> StepDraw:
    """Grid side, reference and fractions of a step."""
    source = generator(seed, step)
    grid = int(torch.randint(ranking.grid_min, ranking.grid_max + 1, (), generator=source))
    reference = objective.references[int(torch.randint(len(objective.references), (), generator=source))]
    count = objective.fractions
    if objective.sampling == "grid":
        width = 1.0 / (count - 1)
        inner = torch.linspace(0, 1, count)[1:-1]
        return StepDraw(grid, reference, inner.repeat(2), torch.full((count - 2,), width), width / 2)
    jitter = torch.rand(2, count, generator=source)
    fractions = ((torch.arange(count) + jitter) / count).flatten()
    return StepDraw(grid, reference, fractions, torch.full((count,), 1.0 / count), 0.0)


def choose_classes(
    probabilities: Float[Tensor, "B Y"],
    labels: Int[Tensor, "B"],
    parts: Int[Tensor, "B"],
    roles: tuple[TrainingRole, ...],
) -> Int[Tensor, "R B"]:
    """Class indices by role: predicted, runner_up, label, second (the label if the prediction is wrong, else the
    runner-up: the paper's other class), or part (`parts`)."""
    first, second = probabilities.topk(2, dim=1).indices.unbind(dim=1)
    other = torch.where(labels == first, second, labels)
    by_role = {"predicted": first, "runner_up": second, "label": labels, "second": other, "part": parts}
    return torch.stack([by_role[role] for role in roles])


def removal_masks(
    maps: Float[Tensor, "B 1 H W"],
    relaxation: Relaxation,
    grid: int,
    fractions: Float[Tensor, "P"],
    standardised: bool,
) -> Float[Tensor, "P B N"]:
    """Soft masks of the removed cells: S deletion steps, then S least-important-first steps; N = grid^2.

    Args:
        maps: raw importance.
        fractions: removed shares in [0, 1], deletion first.
        standardised: scores to mean 0 and standard deviation 1 over the grid.
    """
    cells = F.adaptive_avg_pool2d(maps.float(), grid).flatten(1)
    cells = standardise(cells) if standardised else cells
    deletion, insertion = (fractions * cells.shape[1]).chunk(2)
    return torch.cat([relaxation.soft_topk_masks(cells, deletion), relaxation.soft_topk_masks(-cells, insertion)])


def removal_areas(scores: Float[Tensor, "P B"], weights: Float[Tensor, "S"]) -> tuple[Tensor, Tensor]:
    """(AUC_del, AUC_lif) without end points, each Float[B]; the loss of an image is AUC_del + 1 - AUC_lif."""
    deletion, insertion = scores.float().chunk(2)
    weights = weights.to(scores.device)[:, None]
    return (weights * deletion).sum(dim=0), (weights * insertion).sum(dim=0)


def smoothness(maps: Float[Tensor, "B 1 H W"], kernel: int) -> Float[Tensor, "B"]:
    """mean(relu(A - boxmean(A))^2): isolated peaks cost, plateaus do not."""
    half = kernel // 2
    padded = F.pad(maps, (half, half, half, half), mode="replicate")
    mean = _window_sums(_window_sums(padded, kernel, 3), kernel, 2) / kernel**2
    return F.relu(maps - mean).square().flatten(1).mean(dim=1)


def _window_sums(x: Float[Tensor, "B C h w"], kernel: int, dim: int) -> Float[Tensor, "B C H W"]:
    """Sums over every window of `kernel` places, as differences of cumulative sums: the cost does not grow with it."""
    sums = F.pad(x.cumsum(dim), (1, 0) if dim == 3 else (0, 0, 1, 0))
    places = sums.shape[dim] - kernel
    return sums.narrow(dim, kernel, places) - sums.narrow(dim, 0, places)
