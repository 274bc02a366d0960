"""ROAD: remove and debias (Rong et al., "A Consistent and Efficient Evaluation Strategy", ICML 2022).

    MoRF_f = score(impute(x without the fraction f most important pixels))
    LeRF_f = score(impute(x without the fraction f least important pixels))
    gap    = mean_f (LeRF_f - MoRF_f), in [-1, 1] for probabilities; larger is better

The imputation (`aha_core.metrics.imputation`) hides the shape of the removed region, which a constant colour betrays to
the classifier. Fractions are those of the paper without the end points, .1 … .9: nothing can be imputed from nothing.
The noise of an image is one seeded field for all fractions, both directions and all methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.metrics.curves import ScoreFunction
from aha_core.metrics.imputation import impute
from aha_core.order import ranks_of

FRACTIONS = tuple(step / 10 for step in range(1, 10))
NOISE = 0.01  # standard deviation in pixel space, the authors' value
TOLERANCE = 1e-4  # residual of the linear system: errors far below the noise


@dataclass(frozen=True)
class Road:
    """Per image and fraction: the class's score, and whether it is the prediction, in both directions."""

    most_first: Float[Tensor, "B F"]
    least_first: Float[Tensor, "B F"]
    most_first_correct: Bool[Tensor, "B F"]
    least_first_correct: Bool[Tensor, "B F"]

    @property
    def gap(self) -> Float[Tensor, "B"]:
        return (self.least_first - self.most_first).mean(dim=1)

    @property
    def accuracy_gap(self) -> Float[Tensor, "B"]:
        """The same with 1[class is predicted] as the score: the paper's."""
        return (self.least_first_correct.double() - self.most_first_correct.double()).mean(dim=1)


def road(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    orders: Int[Tensor, "B N"],
    classes: Int[Tensor, "B"],
    seeds: Sequence[int],
    batch_size: int,
    fractions: Sequence[float] = FRACTIONS,
    noise: float = NOISE,
    tolerance: float = TOLERANCE,
) -> Road:
    """ROAD of each image, most and least important pixels first.

    Args:
        score_fn: images to scores [M, Y].
        images: in [0, 1], never changed.
        orders: from `removal_order`.
        classes: the scored column of each image.
        seeds: one per image, for the noise.
        batch_size: imputed images per call of score_fn, cut across images, fractions and directions.
        fractions: of removed pixels, each in (0, 1).
        noise, tolerance: see `impute`.

    Raises ValueError for a fraction outside (0, 1).
    """
    if not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"ROAD removes fractions strictly between 0 and 1, got {tuple(fractions)}")
    device, pixels, size = images.device, orders.shape[1], images.shape[-2:]
    counts = torch.tensor([round(fraction * pixels) for fraction in fractions], device=device)
    jobs = torch.cartesian_prod(
        torch.arange(len(images), device=device),
        torch.arange(len(fractions), device=device),
        torch.arange(2, device=device),
    )
    fields = torch.stack([_noise(images.shape[1:], seed) for seed in seeds]).to(images) * noise
    ranks = ranks_of(orders.to(device))
    scores = torch.zeros((2, len(images), len(fractions)), dtype=torch.float64, device=device)
    correct = torch.zeros_like(scores, dtype=torch.bool)
    with torch.no_grad():
        for job in jobs.split(batch_size):
            image, step, reverse = job.unbind(dim=1)
            rank = torch.where(reverse[:, None].bool(), pixels - 1 - ranks[image], ranks[image])
            removed = (rank < counts[step, None]).unflatten(1, (1, *size))
            output = score_fn(impute(images[image], removed, fields[image], tolerance))
            scores[reverse, image, step] = output.gather(1, classes[image, None]).squeeze(1).double()
            correct[reverse, image, step] = output.argmax(dim=1) == classes[image]
    return Road(scores[0], scores[1], correct[0], correct[1])


def _noise(shape: torch.Size, seed: int) -> Float[Tensor, "C H W"]:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
