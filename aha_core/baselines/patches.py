"""Images with some cells of a G x G grid replaced by the reference: what all patch methods ask the target about."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.metrics.single_deletion import cell_index
from aha_core.targets import Target


def patch_probabilities(
    target: Target,
    image: Float[Tensor, "3 H W"],
    reference: Float[Tensor, "3 H W"],
    kept: Bool[Tensor, "S N"],
    label: Int[Tensor, ""],
    batch_size: int,
) -> Float[Tensor, "S"]:
    """The class probability, in float64, of the image with only the kept cells; N = G^2 cells, row by row."""
    cells = cell_index(round(kept.shape[1] ** 0.5), image.shape[-2:]).to(image.device)
    scores = []
    with torch.no_grad():
        for part in kept.to(image.device).split(batch_size):
            masked = torch.where(part[:, cells][:, None], image, reference)
            scores.append(target.probabilities(masked)[:, int(label)].double())
    return torch.cat(scores)


def patch_maps(values: Float[Tensor, "B N"], size: torch.Size) -> Float[Tensor, "B 1 H W"]:
    """Cell values at every pixel of their cells."""
    cells = cell_index(round(values.shape[1] ** 0.5), size[-2:]).to(values.device)
    return values[:, cells][:, None]
