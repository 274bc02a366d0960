"""SaCo: salience-guided faithfulness coefficient (Wu et al., "On the Faithfulness of Vision Transformer Explanations",
CVPR 2024, algorithm 1).

The pixels, most important first, are cut into K groups of (nearly) equal size. With s_i the mean of the map over
group i (the paper has the sum: the same F where K divides the pixels) and d_i = score(x) - score(x with group i
replaced by the reference):

    F = sum_{i<j} g_ij (s_i - s_j) / sum_{i<j} |s_i - s_j|,    g_ij = 1 where d_i >= d_j, else -1

in [-1, 1]: 1 where groups that are said to matter more do so. All s_i equal: the map claims nothing, F = 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.metrics.curves import ScoreFunction
from aha_core.order import ranks_of

GROUPS = 10  # the paper's K


def saco(
    score_fn: ScoreFunction,
    images: Float[Tensor, "B C H W"],
    maps: Float[Tensor, "B 1 H W"],
    orders: Int[Tensor, "B N"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "#B #C #H #W"],
    image_scores: Float[Tensor, "B"],
    batch_size: int,
    groups: int = GROUPS,
) -> Float[Tensor, "B"]:
    """Faithfulness coefficient of each map; `groups` masked images each.

    Args:
        orders: from `removal_order` of the maps.
        image_scores: of the unperturbed images (`endpoint_scores(...).image`).

    Raises ValueError for fewer than two groups or more groups than pixels.
    """
    pixels = orders.shape[1]
    if not 2 <= groups <= pixels:
        raise ValueError(f"SaCo needs 2 to {pixels} groups, got {groups}")
    edges = torch.linspace(0, pixels, groups + 1, dtype=torch.float64).round().long()
    group_of_rank = torch.repeat_interleave(torch.arange(groups), edges.diff()).to(images.device)
    group = group_of_rank[ranks_of(orders.to(images.device))]
    values = maps.detach().flatten(1).double()
    values = values - values.amin(dim=1, keepdim=True)  # groups of equal values differ by exactly nothing
    salience = torch.zeros(len(maps), groups, dtype=torch.float64, device=images.device)
    salience = salience.scatter_add_(1, group, values) / edges.diff().to(images.device)
    drop = image_scores.double()[:, None] - _without_group(
        score_fn, images, group, classes, reference, groups, batch_size
    )
    first, second = torch.triu_indices(groups, groups, offset=1, device=images.device)
    weight = salience[:, first] - salience[:, second]
    signed = torch.where(drop[:, first] >= drop[:, second], weight, -weight)
    total = weight.abs().sum(dim=1)
    return torch.where(total > 0, signed.sum(dim=1) / total.clamp(min=1e-300), torch.zeros_like(total))


def _without_group(
    score_fn: ScoreFunction,
    images: Tensor,
    group: Int[Tensor, "B N"],
    classes: Tensor,
    reference: Tensor,
    groups: int,
    batch_size: int,
) -> Float[Tensor, "B K"]:
    """Score of each image with each group replaced."""
    scores = torch.zeros(len(images), groups, dtype=torch.float64, device=images.device)
    jobs = torch.cartesian_prod(*(torch.arange(count, device=images.device) for count in (len(images), groups)))
    filled = reference.expand_as(images)
    with torch.no_grad():
        for job in jobs.split(batch_size):
            image, which = job.unbind(dim=1)
            gone = (group[image] == which[:, None]).unflatten(1, (1, *images.shape[-2:]))
            output = score_fn(torch.where(gone, filled[image], images[image]))
            scores[image, which] = output.gather(1, classes[image, None]).squeeze(1).double()
    return scores
