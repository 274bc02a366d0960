"""How many images one pass through a target may hold under a memory cap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aha_core.errors import ResourceError

GIB = 2**30


def activation_bytes(model: nn.Module, run: Callable[[int], object]) -> int:
    """Memory that autograd keeps for each image: of two images less that of one.

    What passes share cancels: copies of the weights in another number format would count as activations of an image.

    Args:
        model: its parameters do not count.
        run: a forward pass over that many images, one of whose inputs requires a gradient.
    """
    parameters = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def kept(images: int) -> int:
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            run(images)
        return sum(storages.values())

    return max(kept(2) - kept(1), 1)


def images_within(memory_gb: float, model: nn.Module, run: Callable[[int], object]) -> int:
    """How many images fit, at least one; also where the measurement itself runs out of memory.

    Args:
        model, run: see `activation_bytes`.
    """
    try:
        return max(int(memory_gb * GIB / activation_bytes(model, run)), 1)
    except RuntimeError as error:
        return halved(2, error, "")


def halved(images: int, error: RuntimeError, target: str) -> int:
    """Half as many images after an out-of-memory error; any other error is raised.

    Raises ResourceError when it was one image already.
    """
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        raise error
    if images == 1:
        raise ResourceError(
            f"out of memory with one masked image of {target}; use more memory, or fewer workers on this machine"
        ) from error
    return images // 2
