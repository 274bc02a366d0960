"""Noisy linear imputation: removed pixels become a weighted mean of their neighbours (Rong et al., ICML 2022, §4.2).

    x_i = sum_j w_ij x_j / sum_j w_ij + noise,   j: the 8 neighbours within the image, w = 1/6 beside, 1/12 diagonal

for every removed pixel i at once: a linear system whose known pixels are the boundary. Written as A x = b,

    A = diag(sum_j w_ij) - W  on the removed pixels,   b = W (known pixels),

A is symmetric and positive definite as soon as one pixel is known, so conjugate gradients solve it for whole batches on
any device, with a 3x3 stencil as the matrix. Large holes are slow for a matrix that reaches one pixel far: the
preconditioner adds the same step on ever coarser grids (Bramble, Pasciak & Xu, 1990).

Known implementations threshold maps at percentiles (a map with large ties loses all) or break on colour images; here
the caller says which pixels go, in pixel space [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

ON_A_CPU = 2  # images at a time: vectors stay in the cache, none waits for the hardest; 32 took 2.2 times as long


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
        tolerance: of the residual |b - A x| / |b| of each image. On a 224 px photograph with a tenth to nine tenths
            removed in one piece, 1e-4 left errors of at most 4e-3 and 5e-4 on average, in 20 to 56 iterations.

    Raises ValueError where an image has no pixel left.
    """
    if bool(removed.flatten(1).all(dim=1).any()):
        raise ValueError("imputation needs at least one pixel of each image")
    together = len(images) if images.is_cuda else ON_A_CPU
    parts = zip(images.split(together), removed.split(together), strict=True)
    solution = torch.cat([_solve(x, hole, tolerance) for x, hole in parts])
    return torch.where(removed, solution + noise, images)


def _solve(
    images: Float[Tensor, "B C H W"], removed: Bool[Tensor, "B 1 H W"], tolerance: float
) -> Float[Tensor, "B C H W"]:
    """The removed pixels without noise, 0 elsewhere."""
    hole = removed.to(images.dtype)
    known = images * (1 - hole)
    degree = _neighbours(torch.ones_like(hole[:1]))
    right = _neighbours(known) * hole
    holes = _coarse_holes(hole)
    return _conjugate_gradients(
        lambda x: (degree * x - _neighbours(x)) * hole,
        lambda r: _multilevel(r, holes) * hole,
        right,
        _pyramid(known, 1 - hole) * hole,
        tolerance,
    )


def _neighbours(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """W x: the weighted sum of the neighbours; nothing lies outside the image.

    Twelve W is ([1 2 1] along both sides) - 4 at the centre. Sums of slices: torch's convolution of one channel
    took 1.3 to 11 times as long on a busy CPU.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    rows = (padded[..., :-2] + padded[..., 2:]).add_(padded[..., 1:-1], alpha=2)
    both = (rows[..., :-2, :] + rows[..., 2:, :]).add_(rows[..., 1:-1, :], alpha=2)
    return both.sub_(x, alpha=4).div_(12)


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


def _coarse_holes(hole: Float[Tensor, "B 1 H W"]) -> list[Tensor]:
    """Per level, the nodes whose hat function lies in the hole; the finest level first, down to a few nodes."""
    holes = [hole]
    while min(holes[-1].shape[-2:]) > 2:
        inside = 1 - F.max_pool2d(1 - F.pad(holes[-1], (1, 1, 1, 1), mode="replicate"), 3, stride=2)
        holes.append(inside)
    return holes


def _multilevel(residual: Float[Tensor, "B C H W"], holes: list[Tensor], weight: float = 1.0) -> Tensor:
    """sum_l P_l M_l P_l^T r / d_l: hats of spacing 2^l (P_l) on the nodes inside the hole (M_l).

    d_0 = 1, the diagonal of A; d_l = 8/9, the energy of a hat, 8/3, times 1/3, the diffusion constant of W.

    Args:
        weight: 1 / d of the first of these levels.
    """
    own = weight * residual * holes[0]
    if len(holes) == 1:
        return own
    coarse = _restrict(_restrict(residual).mT).mT
    below = _multilevel(coarse, holes[1:], 9 / 8)
    height, width = residual.shape[-2:]
    return own + _prolong(_prolong(below.mT, height).mT, width)


def _restrict(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H w"]:
    """P^T along the last side: y_i = x_2i + (x_2i-1 + x_2i+1) / 2, w = ceil(W / 2)."""
    width = x.shape[-1]
    padded = F.pad(x, (1, 1))
    beside = padded[..., 0:width:2] + padded[..., 2 : width + 2 : 2]
    return beside.mul_(0.5).add_(padded[..., 1 : width + 1 : 2])


def _prolong(y: Float[Tensor, "B C H w"], width: int) -> Float[Tensor, "B C H W"]:
    """P along the last side: x_2i = y_i, x_2i+1 = (y_i + y_i+1) / 2, nothing beyond the end."""
    x = y.new_empty((*y.shape[:-1], width))
    x[..., ::2] = y
    between = F.pad(y, (0, 1))
    x[..., 1::2] = (between[..., : width // 2] + between[..., 1 : width // 2 + 1]) / 2
    return x


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    b: Tensor,
    x: Tensor,
    tolerance: float,
) -> Tensor:
    """Solve A x = b for every image of the batch (Hestenes & Stiefel, 1952); stops when all are within tolerance."""

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(dim=(1, 2, 3), keepdim=True)

    size = dot(b, b)
    x = torch.where(size > 0, x, 0)  # b = 0 has the solution 0, which a relative tolerance would never be sure of
    residual = b - apply(x)
    direction = precondition(residual)
    norm = dot(residual, direction)
    goal = tolerance**2 * size
    for _ in range(b[0].numel()):  # exact after that many steps
        if bool((dot(residual, residual) <= goal).all()):
            break
        product = apply(direction)
        step = norm / dot(direction, product).clamp(min=1e-30)
        x = x + step * direction
        residual = residual - step * product
        better = precondition(residual)
        renewed = dot(residual, better)
        direction = better + renewed / norm.clamp(min=1e-30) * direction
        norm = renewed
    return x
