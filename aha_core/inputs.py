"""What `Explainer` takes and gives back, in captum's conventions.

Images are one tensor or a tuple of one (captum's metrics hand over tuples and want them back), on any device and of any
floating type, in [0, 1] or normalised; classes are one number, a list or a tensor; results are like the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.errors import AttributionError
from aha_core.targets import Target

Classes = Int[Tensor, "..."] | Sequence[int] | int
In = TypeVar("In", Tensor, tuple[Tensor])
UNIT_RANGE = (-1.0, 2.0)  # values beyond cannot be pixels in [0, 1], not even with the noise that metrics add


def read_images(inputs: Tensor | tuple[Tensor], target: Target, normalised: bool) -> Float[Tensor, "B 3 S S"]:
    """float32 images in [0, 1] on the target's device.

    Args:
        normalised: inputs are (x - mean) / std with the target's mean and std.

    Raises AttributionError for another shape, or for values that are plainly no pixels in [0, 1].
    """
    given = inputs[0] if isinstance(inputs, tuple) else inputs
    size = target.image_size
    if given.ndim != 4 or given.shape[1:] != (3, size, size):
        raise AttributionError(f"expected images (B, 3, {size}, {size}) in [0, 1], got {tuple(given.shape)}")
    x = given.detach().to(target.mean.device, torch.float32)
    if normalised:
        return x * target.std + target.mean
    low, high = (float(bound) for bound in x.aminmax()) if len(x) else UNIT_RANGE
    if low < UNIT_RANGE[0] or high > UNIT_RANGE[1]:
        raise AttributionError(
            f"expected images in [0, 1], got values from {low:.3g} to {high:.3g}; divide 8-bit images by 255, and "
            "pass normalised=True for images that are normalised for the classifier"
        )
    return x


def read_classes(given: Classes, target: Target, images: int) -> Int[Tensor, "B"]:
    """One class for each image, on the target's device.

    Raises AttributionError for a class that the target does not have, or another number of classes than 1 or B.
    """
    classes = torch.as_tensor(given, device=target.mean.device).flatten()
    count = target.num_classes
    if len(classes) not in (1, images):
        raise AttributionError(f"{len(classes)} classes for {images} images; give one, or one for each image")
    if len(classes) and (int(classes.min()) < 0 or int(classes.max()) >= count):
        raise AttributionError(f"class {classes.tolist()} is outside 0..{count - 1} of {target.name}")
    return classes.expand(images)


def read_maps(maps: Tensor, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 1 S S"]:
    """Maps as refinement takes them. Raises AttributionError for another shape than one channel of each image."""
    if maps.shape != (len(x), 1, *x.shape[2:]):
        raise AttributionError(f"maps of shape {tuple(maps.shape)}; expected {(len(x), 1, *x.shape[2:])}")
    return maps.to(x)


def check_gradients(steps: int) -> None:
    """Raise AttributionError where gradients cannot be had, or for a negative number of steps."""
    if steps < 0:
        raise AttributionError(f"steps = {steps}: give 0 (one pass) or more")
    if torch.is_inference_mode_enabled():
        raise AttributionError(
            "hybrid and refined maps need gradients: leave torch.inference_mode(), or use torch.no_grad()"
        )


def like(maps: Tensor, inputs: In) -> In:
    """The maps on the inputs' device, of their type, in a tuple where they came in one."""
    if isinstance(inputs, tuple):
        return (maps.to(inputs[0].device, inputs[0].dtype),)
    return maps.to(inputs.device, inputs.dtype)


def parts(count: int, size: int | None, show_progress: bool) -> Iterator[slice]:
    """Places of at most `size` images, all together where None. Raises AttributionError for a size below 1."""
    if size is not None and size < 1:
        raise AttributionError(f"internal_batch_size must be at least 1, got {size}")
    step = size or max(count, 1)
    slices = [slice(start, start + step) for start in range(0, max(count, 1), step)]
    if not show_progress:
        yield from slices
        return
    from rich.progress import track

    yield from track(slices, description="attribute")
