"""Noisy linear imputation: removed pixels become a weighted mean of their neighbours (Rong et al., ICML 2022, §4.2).

    x_i = sum_j w_ij x_j / sum_j w_ij + noise,   j: the 8 neighbours within the image, w = 1/6 beside, 1/12 diagonal

for every removed pixel i at once: a linear system whose known pixels are the boundary. Written as A x = b,

    A = diag(sum_j w_ij) - W  on the removed pixels,   b = W (known pixels),

A is symmetric and positive definite as soon as one pixel is known, so conjugate gradients solve it for whole batches on
any device, with a 3x3 convolution as the matrix. Known implementations threshold maps at percentiles (a map with large
ties loses all) or break on colour images; here the caller says which pixels go, in pixel space [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))


def impute(
    images: Float[Tensor, "B C H W"],
    removed: Bool[Tensor, "B 1 H W"],
    noise: Float[Tensor, "#B #C #H #W"],
    tolerance: float,
) -> Float[Tensor, "B C H W"]:
    """Images with the removed pixels imputed; known pixels are kept exactly.

    Args:
        images: in [0, 1], never changed.
        removed: pixels to impute.
        noise: added to imputed pixels, for the contract 0.01 times a standard normal draw.
        tolerance: of the residual |b - A x| / |b| of each image. On a 224 px photograph with a half to nine tenths
            removed in one piece, 1e-4 left errors of at most 4e-3 and 7e-4 on average, in 140 to 310 iterations.

    Raises ValueError where an image has no pixel left.
    """
    if bool(removed.flatten(1).all(dim=1).any()):
        raise ValueError("imputation needs at least one pixel of each image")
    hole = removed.to(images.dtype)
    known = images * (1 - hole)
    degree = _neighbours(torch.ones_like(hole[:1]))
    right = _neighbours(known) * hole
    solution = _conjugate_gradients(
        lambda x: (degree * x - _neighbours(x)) * hole, right, _pyramid(known, 1 - hole) * hole, tolerance
    )
    return torch.where(removed, solution + noise, images)


def _neighbours(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """W x: the weighted sum of the neighbours; nothing lies outside the image."""
    kernel = x.new_tensor(WEIGHTS)[None, None]
    return F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).view_as(x)


def _pyramid(known: Float[Tensor, "B C H W"], weight: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
    """A first guess: means of the known pixels over ever larger cells fill what finer cells do not know."""
    height, width = known.shape[-2:]
    if min(height, width) <= 1:
        return known.sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1) + 0 * known
    halves = [F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in (known, weight)]
    seen = (halves[1] > 0).to(known.dtype)
    coarse = _pyramid(halves[0] / halves[1].clamp(min=1e-12) * seen, seen)
    fine = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(weight > 0, known, fine)


def _conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, tolerance: float) -> Tensor:
    """Solve A x = b for every image of the batch (Hestenes & Stiefel, 1952); stops when all are within tolerance."""

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(dim=(1, 2, 3), keepdim=True)

    residual = b - apply(x)
    direction, norm = residual, dot(residual, residual)
    goal = tolerance**2 * dot(b, b)
    for _ in range(b[0].numel()):  # exact after that many steps
        if bool((norm <= goal).all()):
            break
        product = apply(direction)
        step = norm / dot(direction, product).clamp(min=1e-30)
        x = x + step * direction
        residual = residual - step * product
        renewed = dot(residual, residual)
        direction = residual + renewed / norm.clamp(min=1e-30) * direction
        norm = renewed
    return x
