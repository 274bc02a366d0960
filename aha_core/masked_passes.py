"""Scores of softly masked images, with their gradients, in micro-batches under a memory cap.

    f_i = softmax(target((1 - m_i) x + m_i r))_c        g_i = df_i / dm_i

A score depends on its own mask only, so each micro-batch computes g_i at once and forgets its activations; the
backward pass is a product with the upstream gradient. The result is that of one large batch, the memory that of one
micro-batch, whatever the number of fractions, classes and images. This is where training and refinement spend their
time.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import Precision
from aha_core.memory import halved, images_within
from aha_core.perturbation import remove, upsample_masks
from aha_core.precision import autocast
from aha_core.targets import Target, plain_attention


class MaskedPasses:
    """The target's masked passes.

    Args:
        precision: of the target's forward and backward pass.
        memory_gb: GiB that the activations of a micro-batch may hold. Its size follows from the activations of one
            image, measured once; out of memory halves it.

    Attributes:
        micro_batch: masked images per pass through the target; 0 before the first.
        images: masked images scored so far.
    """

    def __init__(self, target: Target, precision: Precision, memory_gb: float) -> None:
        self.target, self.precision, self.memory_gb = target, precision, memory_gb
        self.micro_batch = 0
        self.images = 0

    def __call__(
        self,
        x: Float[Tensor, "B 3 H W"],
        classes: Int[Tensor, "B"],
        masks: Float[Tensor, "P B N"],
        reference: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "P B"]:
        """f_c of every image under each of its P masks of N = grid^2 cells (1 = removed).

        Raises ResourceError when not even one image fits into memory.
        """
        if not self.micro_batch:
            mask = masks[:1, :1].detach()
            self.micro_batch = images_within(
                self.memory_gb,
                self.target,
                lambda n: _micro_batch(self, x[:1], classes[:1], mask.repeat(n, 1, 1), reference[:1], True),
            )
        scores: Tensor = _Scores.apply(masks, self, x, classes, reference)
        return scores

    def score_and_gradient(
        self, images: Float[Tensor, "M 3 H W"], classes: Int[Tensor, "M"], with_gradient: bool
    ) -> tuple[Float[Tensor, "M"], Float[Tensor, "M 3 H W"] | None]:
        """Class probabilities, and their gradients with respect to the images."""
        images = images.detach().requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            with autocast(images.device, self.precision):
                # The fused kernel's backward pass in bf16 is slower than plain attention's on CPUs: `aha bench passes`.
                slow = with_gradient and torch.is_autocast_enabled("cpu")
                with plain_attention(self.target, active=slow):
                    logits = self.target(images)
            scores = logits.float().softmax(dim=1).gather(1, classes[:, None])[:, 0]
            gradient = torch.autograd.grad(scores.sum(), images)[0] if with_gradient else None
        return scores.detach(), gradient

    def rectangle(self, place: tuple[int, int], masks: int, images: int) -> tuple[slice, slice]:
        """The next masks and images, `micro_batch` together: all masks of some images, or some of one image."""
        first_mask, first_image = place
        if first_mask or self.micro_batch < masks:
            return slice(first_mask, min(first_mask + self.micro_batch, masks)), slice(first_image, first_image + 1)
        return slice(0, masks), slice(first_image, min(first_image + self.micro_batch // masks, images))


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, masks: Tensor, passes: MaskedPasses, x: Tensor, classes: Tensor, reference: Tensor) -> Tensor:
        with_gradient = ctx.needs_input_grad[0]
        scores = torch.empty(masks.shape[:2], device=x.device)
        gradients = torch.empty_like(masks) if with_gradient else None
        place = (0, 0)  # of the next mask and image; micro-batches are rectangles of masks x images, in this order
        while place[1] < len(x):
            rows, columns = passes.rectangle(place, masks.shape[0], len(x))
            try:
                values, gradient = _micro_batch(
                    passes, x[columns], classes[columns], masks[rows, columns], reference[columns], with_gradient
                )
            except RuntimeError as error:
                passes.micro_batch = halved(passes.micro_batch, error, passes.target.name)
                continue
            scores[rows, columns] = values
            if gradients is not None and gradient is not None:
                gradients[rows, columns] = gradient
            passes.images += values.numel()
            place = (rows.stop, columns.start) if rows.stop < masks.shape[0] else (0, columns.stop)
        ctx.save_for_backward(gradients)
        return scores

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return gradients * upstream[0][..., None], None, None, None, None


def _micro_batch(
    passes: MaskedPasses, x: Tensor, classes: Tensor, masks: Tensor, reference: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Scores of P masks of each of B images and their gradients with respect to the masks, [P B] and [P B N]."""
    grid = round(masks.shape[2] ** 0.5)
    masks = masks.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        pixels = upsample_masks(masks, grid, (x.shape[2], x.shape[3]))
        images = remove(x, pixels, reference).flatten(0, 1)
    scores, towards = passes.score_and_gradient(images, classes.repeat(len(masks)), with_gradient)
    gradient = torch.autograd.grad(images, masks, towards)[0] if with_gradient else None
    return scores.unflatten(0, masks.shape[:2]), gradient
