"""Which images and classes are explained and scored: one choice for refinement and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.config import ClassRole


@dataclass(frozen=True)
class ImageBatch:
    """Images of one chunk with what identifies them.

    x: in [0, 1]; labels: logit indices; masks: the object's pixels, none of them for an image without an object, None
    where no image has one; indices: places in the split (they seed the tie breaking); names: of the files;
    void: pixels that do not count in localisation.
    """

    x: Float[Tensor, "B 3 H W"]
    labels: Int[Tensor, "B"]
    masks: Bool[Tensor, "B 1 H W"] | None
    indices: list[int]
    names: list[str]
    void: Bool[Tensor, "B 1 H W"] | None = None


def evaluation_indices(count: int, total: int) -> list[int]:
    """`count` places spread evenly over 0 .. total - 1 (all of them where there are fewer)."""
    return [index * total // min(count, total) for index in range(min(count, total))]


def taking_turns(indices: list[int], labels: list[int]) -> list[int]:
    """The same places in an order in which classes take turns, in a shuffled order: any first few are a fair sample.

    Args:
        labels: the class of each place; within a class the order stays.
    """
    shuffled = torch.randperm(max(labels, default=0) + 1, generator=torch.Generator().manual_seed(0)).tolist()
    seen: dict[int, int] = {}
    turns = []
    for index, label in zip(indices, labels, strict=True):
        seen[label] = seen.get(label, -1) + 1
        turns.append((seen[label], shuffled[label], index))
    return [index for _, _, index in sorted(turns)]


def class_of_role(probabilities: Float[Tensor, "B Y"], labels: Int[Tensor, "B"], role: ClassRole) -> Int[Tensor, "B"]:
    """The class that a role names, fixed from the unperturbed image."""
    first, second = probabilities.topk(2, dim=1).indices.unbind(dim=1)
    return {"predicted": first, "runner_up": second, "label": labels}[role]
