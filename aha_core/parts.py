"""What is known of a mosaic without labels: the class that the target predicts for each of its parts alone.

The evidence of such a class lies in its part, so its map should have its positive part there (the energy of the grid
pointing game, `aha_core.metrics.grid_pointing`, as a training signal):

    outside = 1 - sum_j q_j relu(z_j) / sum_j relu(z_j)

with z the standardised map and q_j = 1 in parts of the class, else 0. It is weighted by the probability of the class in
its part: what the target does not recognise alone has no place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.config import Precision
from aha_core.precision import autocast
from aha_core.ranking import standardise
from aha_core.targets import Target

SIDE = 2  # parts of a mosaic in a row
PARTS = SIDE**2


@dataclass(frozen=True)
class Parts:
    """One part of each mosaic; of an image that is none, the predicted class with confidence 0.

    classes: predicted for the part alone, enlarged to the whole input; confidence: their probability there.
    inside: the parts for which that class is predicted.
    """

    classes: Int[Tensor, "B"]
    confidence: Float[Tensor, "B"]
    inside: Float[Tensor, "B 1 2 2"]


@torch.no_grad()
def read_parts(
    target: Target, images: Float[Tensor, "B 3 H W"], mosaics: Bool[Tensor, "B"], predicted: Int[Tensor, "B"],
    chosen: Int[Tensor, "B"], precision: Precision,
) -> Parts:  # fmt: skip
    """What the target predicts for the parts of the mosaics.

    Args:
        mosaics: which images are 2x2 mosaics.
        predicted: classes of the whole images.
        chosen: the part of each image, row by row, 0 to 3.
    """
    classes, inside = predicted.clone(), torch.ones(len(images), 1, SIDE, SIDE, device=images.device)
    confidence = torch.zeros(len(images), device=images.device)
    if mosaics.any():
        found = images[mosaics]
        half = found.shape[-1] // SIDE
        parts = found[:, :, : SIDE * half, : SIDE * half].unfold(2, half, half).unfold(3, half, half)
        parts = parts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        with autocast(images.device, precision):
            logits = target(F.interpolate(parts, size=images.shape[-2:], mode="bilinear"))
        best, seen = logits.float().softmax(dim=1).max(dim=1)
        best, seen, own = best.view(-1, PARTS), seen.view(-1, PARTS), chosen[mosaics][:, None]
        classes[mosaics] = seen.gather(1, own)[:, 0]
        confidence[mosaics] = best.gather(1, own)[:, 0]
        inside[mosaics] = (seen == seen.gather(1, own)).float().view(-1, 1, SIDE, SIDE)
    return Parts(classes, confidence, inside)


def outside(maps: Float[Tensor, "B 1 H W"], inside: Float[Tensor, "B 1 2 2"]) -> Float[Tensor, "B"]:
    """Share of each standardised map's positive part that lies outside of the parts; see the module."""
    positive = F.relu(standardise(maps))
    where = F.interpolate(inside, size=maps.shape[-2:], mode="nearest")
    return 1 - (positive * where).flatten(1).sum(dim=1) / (positive.flatten(1).sum(dim=1) + 1e-6)
