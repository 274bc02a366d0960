"""The contracts between the rooms of the library."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Attributor(Protocol):
    """An explainer or baseline for one frozen classifier."""

    def attribute(
        self, x: Float[Tensor, "B 3 H W"], /, target: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B 1 H W"]:
        """Map each pixel of x (in [0, 1]) to its importance for the class; larger = more important.

        Args:
            x: images in [0, 1], never changed.
            target: class indices; the predicted class where None.

        Returns:
            Detached float32 maps at the input's resolution.
        """
        ...


@runtime_checkable
class Relaxation(Protocol):
    """A differentiable ranking."""

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        """Soft indicators of the k most important of N cells: values in [0, 1], sum over N equal to k."""
        ...
