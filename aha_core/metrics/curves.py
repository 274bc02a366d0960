"""Deletion and insertion curves of a pixel ranking (Petsiuk et al., "RISE", BMVC 2018).

Recipes differ silently between papers; here they are fixed. Pixels are ranked at input resolution, ties are
broken at random with one seed per image, curves have both end points, and areas are taken over the true fractions.
With P = (c_1 = 0, …, c_P = HW) the numbers of pixels, r the rank of a pixel, x the image and u its reference:

    deletion_j  = score(where(r < c_j, u, x))        insertion_j = score(where(r < c_j, x, u))
    SRG = AUC(insertion) - AUC(deletion)             (symmetric relevance gain, in [-1, 1] for probabilities)

Hence, with one reference, the insertion curve is the deletion curve of the reversed ranking read backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.order import ranks_of

ScoreFunction = Callable[[Float[Tensor, "M C H W"]], Float[Tensor, "M Y"]]


@dataclass(frozen=True)
class Endpoints:
    """Scores that do not depend on the ranking: of the unperturbed image and of the pure reference, each [B]."""

    image: Float[Tensor, "B"]
    reference: Float[Tensor, "B"]


@dataclass(frozen=True)
class Curves:
    """Scores along both directions, [B P], at the true fractions [P] of removed (inserted) pixels."""

    deletion: Float[Tensor, "B P"]
    insertion: Float[Tensor, "B P"]
    fractions: Float[Tensor, "P"]

    @property
    def deletion_auc(self) -> Float[Tensor, "B"]:
        return auc(self.deletion, self.fractions)

    @property
    def insertion_auc(self) -> Float[Tensor, "B"]:
        return auc(self.insertion, self.fractions)

    @property
    def srg(self) -> Float[Tensor, "B"]:
        """Insertion AUC - deletion AUC."""
        return self.insertion_auc - self.deletion_auc


def auc(curve: Float[Tensor, "B P"], fractions: Float[Tensor, "P"]) -> Float[Tensor, "B"]:
    """Trapezoid sum_j (f_{j+1} - f_j) (s_j + s_{j+1}) / 2 of each row, in float64."""
    return torch.trapezoid(curve.double(), fractions.to(curve.device, torch.float64), dim=-1)


def curve_fractions(points: int, pixels: int) -> tuple[Int[Tensor, "P"], Float[Tensor, "P"]]:
    """Counts round(p N) for p = linspace(0, 1, points), and the true fractions count / N.

    Raises ValueError for fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a curve needs both end points, got points = {points}")
    counts = torch.linspace(0, 1, points, dtype=torch.float64).mul(pixels).round().long()
    return counts, counts.double() / pixels


def endpoint_scores(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "#B #C #H #W"],
    batch_size: int,
    image_scores: Float[Tensor, "B"] | None = None,
) -> Endpoints:
    """Scores of the images and of their references: computed once, shared by every method.

    Args:
        image_scores: of the unperturbed images, where they are known; they are the same for all references.
    """
    if image_scores is None:
        image_scores = class_scores(score_fn, images, classes, batch_size)
    return Endpoints(image_scores, class_scores(score_fn, reference.expand_as(images), classes, batch_size))


def class_scores(
    score_fn: ScoreFunction, images: Float[Tensor, "B C H W"], classes: Int[Tensor, "B"], batch_size: int
) -> Float[Tensor, "B"]:
    """Each image's score of its class, `batch_size` images at a time."""
    batches = zip(images.split(batch_size), classes.split(batch_size), strict=True)
    with torch.no_grad():
        return torch.cat([_class_scores(score_fn, x, c) for x, c in batches])


def deletion_insertion(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    orders: Int[Tensor, "B N"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "#B #C #H #W"],
    counts: Int[Tensor, "P"],
    batch_size: int,
    endpoints: Endpoints | None = None,
) -> Curves:
    """Both curves of each image for one class and one reference.

    Args:
        score_fn: images to scores [M, Y], for the contract softmax probabilities (`Target.probabilities`). Its input is
            overwritten by the next call.
        images: never changed.
        orders: from `removal_order`.
        classes: the scored column of each image.
        reference: what replaces removed pixels; broadcast against the images.
        counts: numbers of pixels, non-decreasing from 0 to N (`curve_fractions`).
        batch_size: masked images per call of score_fn, cut across images and points alike.
        endpoints: `endpoint_scores` of the same images, classes and reference; computed where None.

    Raises ValueError when counts do not run from 0 to N or orders do not fit the images.
    """
    pixels = images.shape[-2] * images.shape[-1]
    if orders.shape != (images.shape[0], pixels):
        raise ValueError(f"orders {tuple(orders.shape)} do not fit images {tuple(images.shape)}")
    if counts[0] != 0 or counts[-1] != pixels or bool((counts.diff() < 0).any()):
        raise ValueError(f"counts must rise from 0 to {pixels}, got {counts.tolist()}")
    ends = endpoints or endpoint_scores(score_fn, images, classes, reference, batch_size)

    device, points = images.device, counts.numel()
    # Every masked image is one row: image, then point, then direction; direction 0 deletes, 1 inserts.
    inner = torch.arange(1, points - 1, device=device).repeat_interleave(2)
    direction = torch.arange(2, device=device).repeat(points - 2)
    limits, inserts = counts.to(device)[inner, None], direction[:, None].bool()
    ranks = ranks_of(orders.to(device))
    flat, flat_reference = images.flatten(2), reference.expand_as(images).flatten(2)
    per_image, total = len(inner), len(images) * len(inner)
    masked = flat.new_empty((min(batch_size, total), *flat.shape[1:]))  # written anew for each call of score_fn
    scores = ends.image.new_empty(total)
    with torch.no_grad():
        for start in range(0, total, batch_size):
            end = min(start + batch_size, total)
            for image in range(start // per_image, -(-end // per_image)):
                first, last = max(start, image * per_image), min(end, (image + 1) * per_image)
                own = slice(first - image * per_image, last - image * per_image)
                keep = (ranks[image] < limits[own]) == inserts[own]
                torch.where(keep[:, None], flat[image], flat_reference[image], out=masked[first - start : last - start])
            rows = torch.arange(start, end, device=device) // per_image
            batch = masked[: end - start].unflatten(2, images.shape[-2:])
            scores[start:end] = _class_scores(score_fn, batch, classes[rows])
    curves = ends.image.new_empty((2, len(images), points))
    curves[0, :, 0], curves[0, :, -1] = ends.image, ends.reference
    curves[1, :, 0], curves[1, :, -1] = ends.reference, ends.image
    curves[:, :, 1:-1] = scores.view(len(images), points - 2, 2).permute(2, 0, 1)
    return Curves(deletion=curves[0], insertion=curves[1], fractions=counts.double().to(device) / pixels)


def _class_scores(score_fn: ScoreFunction, x: Tensor, classes: Tensor) -> Float[Tensor, "M"]:
    scores = score_fn(x).gather(1, classes[:, None]).squeeze(1)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
