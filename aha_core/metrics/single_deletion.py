"""Single-deletion correlation, after the in-domain single-deletion score (Hesse, Schaub-Meyer & Roth, NeurIPS 2024).

    rho = Spearman_n( sum of the map over cell n,  score(x) - score(x with cell n replaced by the reference) )

over a G x G grid of cells (the paper's G is 4). One cell at a time stays close to the data, where half an image does
not. The paper fine-tunes the classifier on images with deleted cells ("in-domain") and scores logits; here the
target is the frozen one, so the number is IDSDS proper only for a target that was trained on erased images (`erase`),
and `score_fn` decides between logits and the contract's probabilities.

The effects do not depend on the map: compute them once per image, class and reference, and share them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.metrics.correlation import spearman
from aha_core.metrics.curves import ScoreFunction

GRID = 4  # the paper's


def deletion_effects(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "#B #C #H #W"],
    image_scores: Float[Tensor, "B"],
    batch_size: int,
    grid: int = GRID,
) -> Float[Tensor, "B N"]:
    """Drop of the score when one of the grid's N = grid^2 cells is replaced; images are never changed."""
    cells = cell_index(grid, images.shape[-2:]).to(images.device)
    effects = torch.zeros(len(images), grid * grid, dtype=torch.float64, device=images.device)
    jobs = torch.cartesian_prod(*(torch.arange(count, device=images.device) for count in (len(images), grid * grid)))
    filled = reference.expand_as(images)
    with torch.no_grad():
        for job in jobs.split(batch_size):
            image, cell = job.unbind(dim=1)
            gone = (cells == cell[:, None, None])[:, None]
            output = score_fn(torch.where(gone, filled[image], images[image]))
            score = output.gather(1, classes[image, None]).squeeze(1).double()
            effects[image, cell] = image_scores[image].double() - score
    return effects


def single_deletion_correlation(
    maps: Float[Tensor, "B 1 H W"], effects: Float[Tensor, "B N"], grid: int = GRID
) -> Float[Tensor, "B"]:
    """Spearman correlation of cell sums and effects; 0 where either is constant."""
    cells = F.one_hot(cell_index(grid, maps.shape[-2:]).flatten(), grid * grid).to(maps.device, torch.float64)
    return spearman(maps.detach().flatten(1).double() @ cells, effects)


def cell_index(grid: int, size: torch.Size | tuple[int, int]) -> Int[Tensor, "H W"]:
    """The cell of each pixel, row by row; sides differ by at most one pixel where they do not divide the image."""
    rows, columns = (torch.arange(side) * grid // side for side in size)
    return rows[:, None] * grid + columns
