"""Max-sensitivity: how far a map moves when the image barely does (Yeh et al., "(In)fidelity and Sensitivity",
NeurIPS 2019, definition 2, relative form).

    max_{|e|_inf <= r} |Phi(x + e) - Phi(x)|_2 / |Phi(x)|_2

estimated by the largest of n uniform draws of e, seeded per image. The class is fixed from the unperturbed image and
x + e is clipped to [0, 1], so every draw is an image. Lower is steadier; a constant method has 0 and explains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.protocols import Attributor

RADIUS, DRAWS = 0.02, 10  # about 5 of 255 grey levels; the paper's count is of this order


def max_sensitivity(
    method: Attributor,
    images: Float[Tensor, "B 3 H W"],
    classes: Int[Tensor, "B"],
    maps: Float[Tensor, "B 1 H W"],
    seeds: Sequence[int],
    radius: float = RADIUS,
    draws: int = DRAWS,
) -> Float[Tensor, "B"]:
    """Max-sensitivity of each image's map; `draws` maps each.

    Args:
        maps: the method's maps of the unperturbed images; a map of zeros has no norm, the result is infinite
            unless it stays zero.
        radius: of the perturbation, in units of the image's range [0, 1].
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    original = maps.flatten(1).double()
    norm = original.norm(dim=1)
    worst = torch.zeros_like(norm)
    for _ in range(draws):
        shifts = torch.stack([2 * torch.rand(images.shape[1:], generator=one) - 1 for one in generators])
        moved = (images + radius * shifts.to(images)).clamp(0, 1)
        change = (method.attribute(moved, classes).flatten(1).double() - original).norm(dim=1)
        worst = torch.maximum(worst, torch.where(change > 0, change / norm, torch.zeros_like(norm)))
    return worst
