"""Floors: maps that know nothing about the classifier. A method that does not beat them explains nothing.

random    independent uniform values
centre    exp(-d^2 / 2 s^2), d the distance from the centre, s a quarter of the side; photographs are centred
sobel     |grad luminance| from 3x3 Sobel filters; edges, whatever the class
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec, image_generator

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of R, G, B
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


class Random(Baseline):
    """Uniform noise, seeded by the image's content."""

    class_specific = False

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        size = (1, *x.shape[-2:])
        noise = [torch.rand(size, generator=image_generator(image, self.settings.seed)) for image in x]
        return torch.stack(noise).to(x.device)


class Centre(Baseline):
    """The same centred Gaussian for every image."""

    class_specific = False

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        # Pixel centres on [-1, 1]: a quarter of the side is 0.5.
        vertical, horizontal = (
            (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) * 2 / side - 1 for side in x.shape[-2:]
        )
        squared = vertical[:, None].square() + horizontal.square()
        return torch.exp(-squared / (2 * 0.5**2)).expand(len(x), 1, -1, -1)


class Sobel(Baseline):
    """Edge strength of the luminance."""

    class_specific = False

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        luminance = torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMINANCE))[:, None]
        horizontal = x.new_tensor(SOBEL)
        filters = torch.stack([horizontal, horizontal.T])[:, None]
        gradient = F.conv2d(F.pad(luminance, (1, 1, 1, 1), mode="replicate"), filters)
        return gradient.norm(dim=1, keepdim=True)


SPECS = (
    BaselineSpec("random", "independent uniform noise", Random, passes="0"),
    BaselineSpec("centre", "centred Gaussian, the same for every image", Centre, passes="0"),
    BaselineSpec("sobel", "edge strength of the image", Sobel, passes="0"),
)
