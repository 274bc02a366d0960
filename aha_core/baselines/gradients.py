"""Plain and smoothed input gradients of the class logit s_c.

    saliency      max_channel |ds_c / dx|                                (Simonyan et al., 2014; captum `Saliency`)
    smoothgrad    max_channel mean_n |ds_c / dx (x + e_n)|, e_n ~ N(0, s^2)             (Smilkov et al., 2017)

with s = 0.15 of the image's range and 25 samples, in the middle of what the paper recommends. captum's `NoiseTunnel`
draws from the global generator, which would tie a map to the rest of its batch; the noise is drawn here, per image.
"""

from __future__ import annotations

import torch
from captum.attr import Saliency as CaptumSaliency
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSettings, BaselineSpec, image_generator
from aha_core.targets import Target

SAMPLES = 25
NOISE = 0.15


class Saliency(Baseline):
    """Largest absolute gradient over the channels."""

    def __init__(self, target: Target, settings: BaselineSettings) -> None:
        super().__init__(target, settings)
        self.method = CaptumSaliency(target)

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        return self._gradients(x, classes).amax(dim=1, keepdim=True)

    def _gradients(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
        return self.method.attribute(x.detach().requires_grad_(), target=classes, abs=True)


class SmoothGrad(Saliency):
    """Mean absolute gradient over noisy copies of the image."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        maps = [self._smoothed(image, label) for image, label in zip(x, classes, strict=True)]
        return torch.stack(maps).amax(dim=1, keepdim=True)

    def _smoothed(self, image: Float[Tensor, "3 H W"], label: Int[Tensor, ""]) -> Float[Tensor, "3 H W"]:
        generator = image_generator(image, self.settings.seed)
        noise = torch.randn((SAMPLES, *image.shape), generator=generator).to(image)
        noisy = image + NOISE * (image.max() - image.min()) * noise
        total = torch.zeros_like(image)
        for copies in noisy.split(self.settings.batch_size):
            total += self._gradients(copies, label.expand(len(copies))).sum(dim=0)
        return total / SAMPLES


SPECS = (
    BaselineSpec("saliency", "absolute input gradient", Saliency, passes="3"),
    BaselineSpec(
        "smoothgrad", "absolute input gradient averaged over noisy copies", SmoothGrad, passes=f"3 x {SAMPLES}"
    ),
)
