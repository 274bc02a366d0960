"""More training of a classifier that is already there: the changed targets of the shortcut and the transfer study.

    w <- AdamW(w, gradient of CE(target(change(erase(x))), labels)),    cosine decay to 0, gradient norm at most 1

`change` is what a study does to the data (a marker); `erase` removes random regions as `aha_core.target_training`
does, so that a target that was trained to know images with holes still knows them afterwards. A marker comes after
it: where the object is gone the marker is what is left to learn from, as a hospital's mark on every plate is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.batches import batch_indices
from aha_core.objective import generator
from aha_core.target_training import remove_regions
from aha_core.targets import Target

CLIP = 1.0
ERASE_STREAM = 8  # of the seed: 6 and 7 are the marker's

Fetch = Callable[[list[int]], Float[Tensor, "B 3 S S"]]
Change = Callable[[int, list[int], Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FineTuning:
    """steps, batch_size, lr, weight_decay: of AdamW; erase: share of images that lose regions; seed: of all draws."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    erase: float
    seed: int


def unchanged(step: int, indices: list[int], x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The change that leaves images and labels as they are."""
    return x, labels


def fine_tune(
    target: Target,
    fetch: Fetch,
    labels: Int[Tensor, "N"],
    recipe: FineTuning,
    change: Change = unchanged,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Target:
    """A copy of the target, trained on; the target is not changed.

    Args:
        fetch: images in [0, 1] of the given places in the training data, on the target's device.
        labels: logit indices of all N training images.
        change: (step, places, images, labels) to the images and labels that are learnt.
        on_step: called with the number of steps done and the loss.
    """
    model: Any = copy.deepcopy(target.model).requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(recipe.steps, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # dropout and stochastic depth
        for step in range(recipe.steps):
            indices = batch_indices(recipe.seed, step, recipe.batch_size, len(labels))
            x = fetch(indices)
            if recipe.erase:
                holes = remove_regions(x.cpu(), recipe.erase, generator(recipe.seed, ERASE_STREAM, step))
                x = holes.to(x.device)
            x, wanted = change(step, indices, x, labels[indices].clone())
            loss = F.cross_entropy(model(target.normalise(x)), wanted.to(x.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            schedule.step()
            on_step(step + 1, float(loss.detach()))
    tuned = Target(target.name, model, target.image_size, target.class_names)
    tuned.set_normalisation(*target.normalisation)
    return tuned.to(target.mean.device)
