"""MAS: curves that also ask whether the map's magnitudes are right (Walker et al., "Attribution Quality Metrics with
Magnitude Alignment", IJCAI 2024; the authors' code: github.com/chasewalker26/Magnitude-Aligned-Scoring).

    n_j   the curve scaled to 0 at the reference and 1 at the image, clipped, made monotone
    d_j   share of the map's mass that has been inserted (for deletion: that is still there)
    MAS   AUC of rescale(clip(n_j - |n_j - d_j|)) for insertion, of rescale(clip(n_j + |n_j - d_j|)) for deletion

with clip to [0, 1] and rescale to minimum 0, maximum 1. A curve without any range is worth the diagonal, .5. The mass
is the map's positive part, as in `energy_in_mask`; a map without one counts as uniform. Needs no pass through the
model: it reads `deletion_insertion`'s curves. Areas here are taken over the true fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.metrics.curves import Curves, auc


@dataclass(frozen=True)
class MagnitudeAligned:
    """Per image, in [0, 1]: deletion (lower is better) and insertion (higher is better)."""

    deletion: Float[Tensor, "B"]
    insertion: Float[Tensor, "B"]

    @property
    def difference(self) -> Float[Tensor, "B"]:
        return self.insertion - self.deletion


def magnitude_aligned(
    curves: Curves, maps: Float[Tensor, "B 1 H W"], orders: Int[Tensor, "B N"], counts: Int[Tensor, "P"]
) -> MagnitudeAligned:
    """MAS of maps from their curves.

    Args:
        curves: of `deletion_insertion` with these orders and counts.
        maps: the scored maps, any scale.
        orders: from `removal_order` of the maps.
        counts: numbers of pixels at the curve's points.
    """
    inserted = _mass_share(maps, orders, counts)
    insertion, deletion = _scaled(curves.insertion), _scaled(curves.deletion.flip(1)).flip(1)
    insertion, deletion = insertion.cummax(dim=1).values, deletion.cummin(dim=1).values
    rising = (insertion - (insertion - inserted).abs()).clamp(0, 1)
    falling = (deletion + (deletion - (1 - inserted)).abs()).clamp(0, 1)
    flat = curves.insertion[:, :1] == curves.insertion[:, -1:]
    return MagnitudeAligned(
        deletion=auc(_rescaled(falling, flat, 1 - curves.fractions), curves.fractions),
        insertion=auc(_rescaled(rising, flat, curves.fractions), curves.fractions),
    )


def _mass_share(maps: Tensor, orders: Tensor, counts: Tensor) -> Float[Tensor, "B P"]:
    mass = maps.detach().flatten(1).double().clamp(min=0)
    mass = torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, torch.ones_like(mass))
    total = torch.nn.functional.pad(mass.gather(1, orders).cumsum(dim=1), (1, 0))
    return total[:, counts.to(total.device)] / total[:, -1:]


def _scaled(curve: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    """Curves from the reference's score (first point) to the image's (last), as 0 to 1, clipped."""
    zero, one = curve[:, :1].double(), curve[:, -1:].double()
    span = torch.where(one == zero, torch.ones_like(one), one - zero)
    return ((curve - zero) / span).clamp(0, 1)


def _rescaled(curve: Float[Tensor, "B P"], flat: Tensor, diagonal: Float[Tensor, "P"]) -> Float[Tensor, "B P"]:
    """Minimum 0, maximum 1; the diagonal where the score or the curve has no range."""
    low, high = curve.amin(dim=1, keepdim=True), curve.amax(dim=1, keepdim=True)
    flat = flat | (high == low)
    return torch.where(flat, diagonal.to(curve), (curve - low) / torch.where(flat, torch.ones_like(high), high - low))
