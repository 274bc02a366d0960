"""The hybrid mode: a one-pass map, corrected by one gradient of the target.

    m = soft mask of the least important 70 % of the cells of A
    g = -df_c((1 - m) x + m r) / dm        r: the blurred image
    H = z(z(A) + w clip(g / rms(g), -3, 3))

g_i is what cell i adds to the class's probability while the image is about to be put together in the order of A: the
first-order gain of insertion from an earlier rank. A gradient at the whole image says less, because there the
probability is saturated. Where a cell ought to be is known from A, so no training is needed; z is the standardisation
of the ranking, and the change is enlarged bilinearly, as in refinement, whose cells these are: the gradient of all of
them costs one pass whatever their number.

Cost: one masked forward and backward pass of the target per image, beside the pass that A needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import PerturbationConfig
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import removal_masks
from aha_core.perturbation import reference_images
from aha_core.ranking import standardise
from aha_core.ranking.soft_topk import SoftTopK

REMOVED = 0.7  # share of the cells
TAU = 0.8  # a wide transition: nearly all cells are partly there, and their gradient counts
LIMIT = 3.0  # root mean squares
FINEST = 2  # pixels, the side of the smallest cell


def hybrid_maps(
    passes: MaskedPasses,
    x: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    classes: Int[Tensor, "B"],
    perturbation: PerturbationConfig,
    grid: int,
    weight: float,
) -> Float[Tensor, "B 1 H W"]:
    """H from one-pass maps A of these classes; the inputs are not changed.

    Args:
        grid: cells a side, fewer where they would be smaller than two pixels.
        weight: w, standard deviations of the map.
    """
    grid = cells_of(grid, x)
    start = standardise(maps.detach())
    both = removal_masks(start, SoftTopK(TAU), grid, torch.full((2,), REMOVED), standardised=True)
    masks = both[1:].requires_grad_()  # the least important cells first
    with torch.enable_grad():
        scores = passes(x, classes, masks, reference_images(x, "blur", perturbation))
        (gradient,) = torch.autograd.grad(scores.sum(), masks)
    change = F.interpolate(
        weight * relative(-gradient[0]).unflatten(1, (1, grid, grid)), size=x.shape[-2:], mode="bilinear"
    )
    return standardise(start + change)


def cells_of(grid: int, x: Float[Tensor, "B 3 H W"]) -> int:
    """Cells a side: so many, or fewer where they would be smaller than two pixels."""
    return min(grid, x.shape[-1] // FINEST)


def relative(gradient: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """clip(g / rms(g), -3, 3) of each image; zeros where there is no gradient."""
    scaled = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    rms = scaled.square().mean(dim=1, keepdim=True).sqrt()
    return (scaled / rms.clamp_min(1e-12)).clamp(-LIMIT, LIMIT)
