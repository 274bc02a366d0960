"""The measures that evaluation adds to the curves, by name. A new one is a function here and a line in a registry.

Those of `BY_REFERENCE` depend on the reference image, those of `REFERENCE_FREE` do not; each gives one number per image
and column. What does not depend on the map (end points, effects of single deletions) is computed once per chunk and
shared by all methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.metrics import (
    Curves,
    Endpoints,
    area_share,
    average_precision,
    best_iou,
    boundary_alignment,
    deletion_effects,
    endpoint_scores,
    energy_in_mask,
    gini,
    magnitude_aligned,
    mean_threshold_iou,
    off_centre,
    perturbation_accuracy,
    pointing_hit,
    rank_accuracy,
    road,
    saco,
    single_deletion_correlation,
)
from aha_core.metrics.curves import ScoreFunction

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Scene:
    """What one chunk of images is scored with, for one class role.

    score_fn: images to class probabilities; classes: the explained ones; labels: ground truth; seeds: one per image;
    masks: of the objects, empty for an image without one, None where no image has one; batch_size: masked images per
    call of score_fn; void: pixels that do not count in localisation.
    """

    score_fn: ScoreFunction
    images: Float[Tensor, "B 3 H W"]
    classes: Int[Tensor, "B"]
    labels: Int[Tensor, "B"]
    seeds: list[int]
    masks: Bool[Tensor, "B 1 H W"] | None
    batch_size: int
    void: Bool[Tensor, "B 1 H W"] | None = None

    @cached_property
    def intact(self) -> Float[Tensor, "B Y"]:
        """Scores of the unperturbed images: one pass, shared by all references and methods."""
        with torch.no_grad():
            return torch.cat([self.score_fn(part) for part in self.images.split(self.batch_size)])

    @property
    def with_object(self) -> list[int]:
        """Places of the images with a mask that is not empty."""
        return [] if self.masks is None else self.masks.flatten(1).any(dim=1).nonzero().flatten().tolist()


@dataclass
class Removal:
    """One reference of a scene, with what all methods share."""

    scene: Scene
    reference: Float[Tensor, "B 3 H W"]

    @cached_property
    def ends(self) -> Endpoints:
        scene = self.scene
        known = scene.intact.gather(1, scene.classes[:, None]).squeeze(1)
        return endpoint_scores(scene.score_fn, scene.images, scene.classes, self.reference, scene.batch_size, known)

    @cached_property
    def effects(self) -> Float[Tensor, "B N"]:
        """Of single deletions."""
        scene = self.scene
        return deletion_effects(
            scene.score_fn, scene.images, scene.classes, self.reference, self.ends.image, scene.batch_size
        )


@dataclass(frozen=True)
class Ranked:
    """A method's maps with their orders."""

    maps: Float[Tensor, "B 1 H W"]
    orders: Int[Tensor, "B N"]


def _mas(removal: Removal, ranked: Ranked, curves: Curves, counts: Tensor) -> Columns:
    result = magnitude_aligned(curves, ranked.maps, ranked.orders, counts)
    return {"mas_deletion": result.deletion, "mas_insertion": result.insertion, "mas": result.difference}


def _saco(removal: Removal, ranked: Ranked, curves: Curves, counts: Tensor) -> Columns:
    scene = removal.scene
    value = saco(
        scene.score_fn, scene.images, ranked.maps, ranked.orders, scene.classes, removal.reference,
        removal.ends.image, scene.batch_size,
    )  # fmt: skip
    return {"saco": value}


def _single_deletion(removal: Removal, ranked: Ranked, curves: Curves, counts: Tensor) -> Columns:
    return {"single_deletion": single_deletion_correlation(ranked.maps, removal.effects)}


def _pos_neg(scene: Scene, ranked: Ranked) -> Columns:
    result = perturbation_accuracy(
        scene.score_fn, scene.images, ranked.orders, scene.labels, scene.batch_size, scene.intact.argmax(dim=1)
    )
    return {"pos": result.positive, "neg": result.negative, "pos_neg": result.difference}


def _road(scene: Scene, ranked: Ranked) -> Columns:
    result = road(scene.score_fn, scene.images, ranked.orders, scene.classes, scene.seeds, scene.batch_size)
    return {"road": result.gap, "road_accuracy": result.accuracy_gap}


def _sparseness(scene: Scene, ranked: Ranked) -> Columns:
    return {"gini": gini(ranked.maps)}


def localisation(scene: Scene, ranked: Ranked, places: list[int]) -> Columns:
    """Everything that needs masks, for the images at these places.

    Void pixels are left out, as if neither image nor map had them; `boundary` and `off_centre`, for which neighbours
    and places matter, take them as outside. Raises ValueError for a scene without masks.
    """
    if scene.masks is None:
        raise ValueError("localisation needs masks")
    maps, orders, masks = ranked.maps[places], ranked.orders[places], scene.masks[places]
    seeds = [scene.seeds[place] for place in places]
    if scene.void is None:
        overlap = _overlap(maps, orders, masks, seeds)
    else:
        counted = ~scene.void[places]
        alone = [
            _overlap(*_pixels(maps[i], orders[i], masks[i], counted[i].flatten()), seeds[i : i + 1])
            for i in range(len(places))
        ]
        overlap = {name: torch.cat([one[name] for one in alone]) for name in alone[0]}
    return overlap | {
        "boundary": boundary_alignment(maps, masks, seeds, orders=orders),
        "off_centre": off_centre(masks).double(),
    }


def _overlap(
    maps: Float[Tensor, "B 1 H W"], orders: Int[Tensor, "B N"], masks: Bool[Tensor, "B 1 H W"], seeds: list[int]
) -> Columns:
    """The measures that are the same however the pixels are arranged."""
    return {
        "pointing": pointing_hit(maps, masks, seeds, orders).double(),
        "energy": energy_in_mask(maps, masks),
        "rank_accuracy": rank_accuracy(maps, masks, seeds, orders),
        "best_iou": best_iou(maps, masks),
        "mean_iou": mean_threshold_iou(maps, masks),
        "average_precision": average_precision(maps, masks),
        "area": area_share(masks),
    }


def _pixels(
    one_map: Float[Tensor, "1 H W"], order: Int[Tensor, "N"], mask: Bool[Tensor, "1 H W"], counted: Bool[Tensor, "N"]
) -> tuple[Float[Tensor, "1 1 1 n"], Int[Tensor, "1 n"], Bool[Tensor, "1 1 1 n"]]:
    """Map, order and mask of the counted pixels alone, in one row."""
    number = counted.cumsum(dim=0) - 1
    kept = number[order[counted[order]]]
    return one_map.flatten()[counted].view(1, 1, 1, -1), kept[None], mask.flatten()[counted].view(1, 1, 1, -1)


BY_REFERENCE: dict[str, Callable[[Removal, Ranked, Curves, Tensor], Columns]] = {
    "mas": _mas,
    "saco": _saco,
    "single_deletion": _single_deletion,
}
REFERENCE_FREE: dict[str, Callable[[Scene, Ranked], Columns]] = {
    "pos_neg": _pos_neg,
    "road": _road,
    "sparseness": _sparseness,
}


def tabulated(columns: Columns) -> list[dict[str, float]]:
    """One dictionary per image."""
    values = {name: column.detach().cpu().tolist() for name, column in columns.items()}
    count = len(next(iter(values.values()))) if values else 0
    return [{name: values[name][place] for name in values} for place in range(count)]
