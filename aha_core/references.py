"""Reference images of the evaluation: what removed pixels show. In pixel space [0, 1]; the contract has four.

black   0                     mean    one colour, the data's mean
blur    Gaussian, reflected   noise   uniform, independent for every pixel and channel, seeded per image

Anything else is a callable from images to reference images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.config import EvaluationReference, PerturbationConfig
from aha_core.errors import DataError
from aha_core.perturbation import reference_images

MakeReference = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B 3 H W"]]


def evaluation_reference(
    x: Float[Tensor, "B 3 H W"],
    reference: EvaluationReference | MakeReference,
    config: PerturbationConfig,
    seeds: Sequence[int],
) -> Float[Tensor, "B 3 H W"]:
    """The reference of each image, by name or by a callable; x is never changed.

    Args:
        seeds: one per image, for noise: the same image gets the same noise in every batch and on every device.

    Raises DataError when a callable returns another shape or values that are not finite.
    """
    if reference == "noise":
        draws = [torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(draws).to(x)
    if not callable(reference):
        return reference_images(x, reference, config)
    made = reference(x.clone())
    if made.shape != x.shape or not bool(made.isfinite().all()):
        name = getattr(reference, "__name__", type(reference).__name__)
        raise DataError(f"reference {name} must give finite images of shape {tuple(x.shape)}, got {tuple(made.shape)}")
    return made.to(x)
