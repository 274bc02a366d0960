"""Maps as segmentations: intersection over union at two thresholds, and average precision over all of them.

    IoU(t)        |{map >= t} & mask| / |{map >= t} | mask|
    best IoU      max_t IoU(t): an upper bound, the threshold is chosen with the mask in hand
    mean IoU      IoU of {map > mean of the map}, the threshold that needs no mask
    AP            sum_t (recall_t - recall_{t-1}) precision_t, t from the largest value down

Equal values pass a threshold together, so ties need no seed. Everett et al., "PASCAL VOC", 2010, defines AP; Chefer et
al., "Transformer Interpretability", CVPR 2021, segment at the mean. A constant map selects everything at its only
threshold; above its mean lies nothing, so its mean IoU is that of the whole image too, the share of the mask.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aha_core.errors import DataError

Maps = Float[Tensor, "B 1 H W"]
Masks = Bool[Tensor, "B 1 H W"]


def best_iou(maps: Maps, masks: Masks) -> Float[Tensor, "B"]:
    """Largest IoU over all thresholds."""
    hits, selected, last, size = _sweep(maps, masks)
    iou = hits / (selected + size - hits)
    return torch.where(last, iou, torch.zeros_like(iou)).amax(dim=1)


def mean_threshold_iou(maps: Maps, masks: Masks) -> Float[Tensor, "B"]:
    """IoU of the pixels above the map's mean."""
    values, inside = maps.detach().flatten(1).double(), masks.flatten(1)
    selected = values > values.mean(dim=1, keepdim=True)
    selected = torch.where(selected.any(dim=1, keepdim=True), selected, torch.ones_like(selected))
    return (selected & inside).sum(dim=1).double() / (selected | inside).sum(dim=1)


def average_precision(maps: Maps, masks: Masks) -> Float[Tensor, "B"]:
    """Area under the precision-recall curve as a step function."""
    hits, selected, last, size = _sweep(maps, masks)
    # Within a run of equal values only its end is a threshold: the recall gained since the previous end counts there.
    reached = torch.where(last, hits, torch.zeros_like(hits)).cummax(dim=1).values
    gained = reached - torch.nn.functional.pad(reached[:, :-1], (1, 0))
    return (gained / size * hits / selected).sum(dim=1)


def _sweep(maps: Maps, masks: Masks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels from the largest value down: hits and selected so far, ends of runs of equal values, mask sizes [B 1]."""
    inside = masks.flatten(1)
    size = inside.sum(dim=1, keepdim=True).double()
    if bool((size == 0).any()):
        raise DataError("a mask of this batch is empty; leave such images out")
    values, order = maps.detach().flatten(1).sort(dim=1, descending=True)
    hits = inside.gather(1, order).double().cumsum(dim=1)
    selected = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=torch.float64).expand_as(hits)
    last = torch.nn.functional.pad(values.diff(dim=1) != 0, (0, 1), value=True)
    return hits, selected, last, size
