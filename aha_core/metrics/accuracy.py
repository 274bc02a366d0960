"""Positive and negative perturbation tests (Chefer et al., "Generic Attention-model Explainability", ICCV 2021).

    POS = 100 * trapezoid over f = 0, .1, …, .9 of 1[argmax p(x with the fraction f most important pixels black) = y]

and NEG removes the least important pixels first. Black is 0 in pixel space. Lower POS and higher NEG are better; both
lie in [0, 90], because the fractions end at .9. Averaged over images this is the area under the accuracy curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.metrics.curves import ScoreFunction, auc
from aha_core.order import ranks_of

FRACTIONS = tuple(step / 10 for step in range(10))


@dataclass(frozen=True)
class PerturbationAccuracy:
    """Per image: POS and NEG in [0, 90], and whether the label is still predicted at each of FRACTIONS."""

    positive: Float[Tensor, "B"]
    negative: Float[Tensor, "B"]
    positive_correct: Bool[Tensor, "B F"]
    negative_correct: Bool[Tensor, "B F"]

    @property
    def difference(self) -> Float[Tensor, "B"]:
        """NEG - POS in [-90, 90], higher is better: what SRG is to insertion and deletion."""
        return self.negative - self.positive


def perturbation_accuracy(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    orders: Int[Tensor, "B N"],
    labels: Int[Tensor, "B"],
    batch_size: int,
    predicted: Int[Tensor, "B"] | None = None,
) -> PerturbationAccuracy:
    """POS and NEG of each image.

    Args:
        score_fn: images to scores [M, Y]; only the argmax counts.
        images: in [0, 1], never changed.
        orders: from `removal_order`.
        labels: the class whose prediction is counted (Chefer: the ground truth).
        batch_size: masked images per call of score_fn, cut across images and fractions alike.
        predicted: argmax of the unperturbed images' scores; computed where None.
    """
    device, pixels = images.device, orders.shape[1]
    counts = torch.tensor([round(fraction * pixels) for fraction in FRACTIONS], device=device)
    steps = torch.arange(1, len(FRACTIONS), device=device)  # nothing is removed at the first, whatever the direction
    jobs = torch.cartesian_prod(torch.arange(images.shape[0], device=device), steps, torch.arange(2, device=device))
    ranks = ranks_of(orders.to(device))
    correct = torch.zeros((2, images.shape[0], len(FRACTIONS)), dtype=torch.bool, device=device)
    with torch.no_grad():
        if predicted is None:
            predicted = torch.cat([score_fn(part).argmax(dim=1) for part in images.split(batch_size)])
        correct[..., 0] = predicted == labels
        for job in jobs.split(batch_size):
            image, step, reverse = job.unbind(dim=1)
            rank = torch.where(reverse[:, None].bool(), pixels - 1 - ranks[image], ranks[image])
            keep = (rank >= counts[step, None]).unflatten(1, images.shape[-2:])
            answer = score_fn(images[image] * keep[:, None]).argmax(dim=1)
            correct[reverse, image, step] = answer == labels[image]
    true_fractions = counts.double() / pixels
    positive, negative = (100 * auc(one.double(), true_fractions) for one in correct)
    return PerturbationAccuracy(positive, negative, correct[0], correct[1])
