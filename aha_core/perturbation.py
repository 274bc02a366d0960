"""What 'removed' looks like: reference images, mask upsampling and composition.

    deletion image = (1 - m) * x + m * r

with image x, reference image r, both in pixel space [0, 1], and removal mask m (1 = removed). Source: "Learn to
Rank" (arXiv 2604.05819), section on perturbations; references as in the metric contract.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from aha_core.config import PerturbationConfig, ReferenceName

MASK_BLUR_KERNEL, MASK_BLUR_SIGMA = 7, 1.0  # pixels; softens the cell edges of upsampled masks (paper)


def gaussian_blur(x: Float[Tensor, "B C H W"], kernel: int, sigma: float) -> Float[Tensor, "B C H W"]:
    """Separable Gaussian filter with reflect padding.

    Args:
        kernel: side in pixels, odd, at most 2 * min(H, W) - 1.
        sigma: standard deviation in pixels.
    """
    half = kernel // 2
    weights = gaussian_weights(kernel, sigma).to(x)
    planes = F.pad(rearrange(x, "b c h w -> (b c) 1 h w"), (half, half, half, half), mode="reflect")
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return rearrange(planes, "(b c) 1 h w -> b c h w", b=x.shape[0])


def gaussian_weights(kernel: int, sigma: float) -> Float[Tensor, "kernel"]:
    """exp(-t^2 / (2 sigma^2)) at the kernel's integer offsets t, with sum 1."""
    half = kernel // 2
    weights = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    return weights / weights.sum()


def reference_images(
    x: Float[Tensor, "B 3 H W"], name: ReferenceName, config: PerturbationConfig
) -> Float[Tensor, "B 3 H W"]:
    """The reference image of each x, in pixel space: black, the data's mean colour, or the blurred image."""
    if name == "black":
        return torch.zeros_like(x)
    if name == "mean":
        return x.new_tensor(config.mean).view(1, 3, 1, 1).expand_as(x)
    return gaussian_blur(x, config.blur_kernel, config.blur_sigma)


def upsample_masks(masks: Float[Tensor, "S B N"], grid: int, size: tuple[int, int]) -> Float[Tensor, "S B 1 H W"]:
    """Cell masks to pixel masks: nearest upsampling, Gaussian of sigma 1 px (kernel 7, reflect), clamp to [0, 1].

    Both are linear and separable, so a mask M becomes U_H M U_W^T: two small products instead of filtering every pixel.
    """
    rows, columns = (upsampling(grid, side).to(masks) for side in size)
    cells = rearrange(masks, "s b (g1 g2) -> s b 1 g1 g2", g1=grid)
    return (rows @ cells @ columns.T).clamp(0.0, 1.0)


@lru_cache(maxsize=512)
def upsampling(grid: int, side: int) -> Float[Tensor, "side grid"]:
    """U: one side's nearest upsampling followed by its Gaussian filter."""
    with torch.inference_mode(False):  # it is kept, for later gradients, too
        nearest = F.interpolate(torch.eye(grid)[None], size=side, mode="nearest")[0]
        padded = F.pad(nearest[:, None], (MASK_BLUR_KERNEL // 2,) * 2, mode="reflect")
        return F.conv1d(padded, gaussian_weights(MASK_BLUR_KERNEL, MASK_BLUR_SIGMA)[None, None])[:, 0].T


def remove(
    x: Float[Tensor, "B 3 H W"], masks: Float[Tensor, "S B 1 H W"], reference: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "S B 3 H W"]:
    """(1 - m) x + m r for every mask."""
    return torch.lerp(x[None], reference[None], masks)
