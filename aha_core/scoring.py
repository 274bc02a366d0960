"""Class probabilities as metrics need them: in a number format, under a memory cap."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.memory import halved, images_within
from aha_core.targets import Target


class Scorer:
    """softmax(target(x)), with forward passes in float32 or bf16 and the softmax always in float32.

    Args:
        precision: "bf16" for autocast, else float32.
        batch_size: most images per pass.
        memory_gb: GiB for a pass. What autograd would keep of an image, measured once, bounds what a pass without
            gradients holds of it from above. Out of memory halves the passes.

    Attributes:
        batch_size: images per pass.
    """

    def __init__(self, target: Target, precision: str, batch_size: int, memory_gb: float) -> None:
        self.target, self.precision = target, precision
        size, device = target.image_size, target.mean.device

        def run(images: int) -> Any:
            return self._probabilities(torch.zeros(images, 3, size, size, device=device, requires_grad=True))

        self.batch_size = min(batch_size, images_within(memory_gb, target, run))

    def __call__(self, x: Float[Tensor, "M 3 H W"]) -> Float[Tensor, "M Y"]:
        """Raises ResourceError when not even one image fits into memory."""
        done: list[Tensor] = []
        start = 0
        while start < len(x):
            try:
                done.append(self._probabilities(x[start : start + self.batch_size]))
            except RuntimeError as error:
                self.batch_size = halved(self.batch_size, error, self.target.name)
                continue
            start += len(done[-1])
        return done[0] if len(done) == 1 else torch.cat(done)

    def _probabilities(self, x: Float[Tensor, "M 3 H W"]) -> Float[Tensor, "M Y"]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.target(x)
        return logits.float().softmax(dim=-1)
