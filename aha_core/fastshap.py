"""FastSHAP (Jethani et al., ICLR 2022; for transformers: Covert, Kim & Lee, "ViT Shapley", ICLR 2023) as a loss.

    loss = mean_z (f_c(x with the cells outside of z removed) - f_c(r) - z phi)^2
    phi_j = mean of the map in cell j / N

with phi made efficient, z from the Shapley kernel in complementary pairs (`aha_core.shapley`), f_c the class
probability. Everything else is AHA's training: network, schedule, images, classes, references, and as many masked
images in each step; they need no gradient, and each image's reference costs one pass more. The authors train a
surrogate of the classifier on masked images first and read v from it; here v is the target itself, on the reference
images of the profile: the method explains the classifier that is evaluated, and no training is spent on a second one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aha_core.batches import Batch
from aha_core.config import Params
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.runtime import Row
from aha_core.shapley import cell_values, shapley_loss, shapley_masks
from aha_core.training import blank_probabilities, explained, of_roles


def fastshap_loss(
    module: nn.Module, passes: MaskedPasses, batch: Batch, params: Params, step: int
) -> tuple[Tensor, Row]:
    """Loss of one rank's batch, and for the curve: the loss, the values' missing efficiency, map scale."""
    one = explained(module, passes, batch, params, step)
    grid, count = params.fastshap.grid, len(one.draw.fractions)
    roles = len(one.by_role)
    kept = torch.stack(
        [
            shapley_masks(grid**2, count, generator(params.seed, 5, step, role, place))
            for role in range(roles)
            for place in batch.positions
        ],
        dim=1,
    ).to(batch.images.device)
    scores = passes(one.x, one.classes, (~kept).float(), one.reference.repeat(roles, 1, 1, 1))
    none = of_roles(blank_probabilities(passes, one.reference), one.by_role).flatten()
    full = of_roles(one.probabilities, one.by_role).flatten()
    phi = cell_values(one.maps, grid)
    loss = shapley_loss(phi, kept, scores, none, full).mean()
    values = {
        "loss": loss,
        "inefficiency": (full - none - phi.sum(dim=1)).abs().mean(),
        "map_std": one.maps.flatten(1).std(dim=1).mean(),
    }
    return loss, {name: float(value.detach()) for name, value in values.items()}
