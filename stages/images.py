"""The images that are refined and evaluated: one choice for both stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from aha_core.config import ClassRole
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.selection import ImageBatch, class_of_role, evaluation_indices, taking_turns
from aha_core.targets import Target
from stages.context import Context


def evaluated(ctx: Context, split: str) -> tuple[PreparedImages, list[int]]:
    """The split and the places of `evaluate.images` images spread evenly over it, in which classes take turns."""
    dataset = PreparedImages(ctx.paths.data, split)
    indices = evaluation_indices(ctx.params.evaluate.images, len(dataset))
    return dataset, taking_turns(indices, [dataset.label(index) for index in indices])


def load(dataset: PreparedImages, indices: list[int], labels: list[int], device: str) -> ImageBatch:
    """Images, logit labels, masks and names of the given places."""
    images, classes = dataset.batch(indices)
    return ImageBatch(
        x=images.to(device).float() / 255,
        labels=torch.tensor([labels[int(label)] for label in classes], device=device),
        masks=_stacked([dataset.mask(index) for index in indices], device),
        indices=indices,
        names=[dataset.name(index) for index in indices],
        void=_stacked([dataset.void(index) for index in indices], device),
    )


def _stacked(regions: list[Bool[Tensor, "S S"] | None], device: str) -> Bool[Tensor, "B 1 S S"] | None:
    """Regions of several images, empty for an image without one; None where no image has one."""
    known = [region for region in regions if region is not None]
    if not known:
        return None
    none = torch.zeros_like(known[0])
    return torch.stack([none if region is None else region for region in regions])[:, None].to(device)


def chunk_starts(ctx: Context, count: int) -> list[int]:
    """First places of the chunks of `resources.batch_size` images."""
    return list(range(0, count, ctx.params.resources.batch_size))


def chunks(
    ctx: Context, dataset: PreparedImages, indices: list[int], target: Target, role: ClassRole, starts: list[int]
) -> Iterator[tuple[ImageBatch, Tensor]]:
    """The chunks with these `chunk_starts`, with the class of the role."""
    labels = label_map(dataset.class_names, target.class_names)
    for start in starts:
        batch = load(dataset, indices[start : start + ctx.params.resources.batch_size], labels, ctx.device)
        with torch.no_grad():
            probabilities = target.probabilities(batch.x)
        yield batch, class_of_role(probabilities, batch.labels, role)


def first_images(ctx: Context, count: int) -> tuple[PreparedImages, list[int]]:
    """The test split and the first `count` places of the evaluation's; where it has fewer, `count` spread likewise."""
    evaluate = ctx.params.evaluate.model_copy(update={"images": max(count, ctx.params.evaluate.images)})
    dataset, indices = evaluated(replace(ctx, params=ctx.params.model_copy(update={"evaluate": evaluate})), "test")
    return dataset, indices[:count]
