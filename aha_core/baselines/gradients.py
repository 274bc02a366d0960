"""Plain and smoothed input gradients of the class logit s_c.

    saliency      max_channel |ds_c / dx|                                (Simonyan et al., 2014; captum `Saliency`)
    smoothgrad    max_channel mean_n |ds_c / dx (x + e_n)|, e_n ~ N(0, s^2)             (Smilkov et al., 2017)
    input_x_gradient   sum_channel |x ds_c / dx|           (Shrikumar et al., 2016; captum `InputXGradient`)
    gradient_shap      sum_channel |mean_n (x + e_n - r) ds_c / dx (r + a_n (x + e_n - r))|, a_n ~ U(0, 1)
                                                           (Lundberg & Lee, 2017; Erion et al., 2021)

with the reference r, 25 samples each, s = 0.15 of the image's range for SmoothGrad, in the middle of what its paper
recommends, and 0.09 for GradientSHAP, captum's tutorial. captum's `NoiseTunnel` and `GradientShap` draw from the global
generators, which would tie a map to the rest of its batch; their noise is drawn here, per image.
"""

from __future__ import annotations

import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import Saliency as CaptumSaliency
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSettings, BaselineSpec, image_generator
from aha_core.targets import Target

SAMPLES = 25
NOISE = 0.15
SHAP_NOISE = 0.09


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


class InputXGradient(Baseline):
    """Image times gradient: the first-order effect of turning a pixel black."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        product = CaptumInputXGradient(self.target).attribute(x.detach().requires_grad_(), target=classes)
        return product.abs().sum(dim=1, keepdim=True)


class GradientShap(Saliency):
    """Expected gradients between the reference and noisy copies of the image."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        references = self.settings.reference(x)
        maps = [self._expected(*one) for one in zip(x, references, classes, strict=True)]
        return torch.stack(maps).abs().sum(dim=1, keepdim=True)

    def _expected(
        self, image: Float[Tensor, "3 H W"], reference: Float[Tensor, "3 H W"], label: Int[Tensor, ""]
    ) -> Float[Tensor, "3 H W"]:
        generator = image_generator(image, self.settings.seed)
        noise = torch.randn((SAMPLES, *image.shape), generator=generator).to(image)
        places = torch.rand((SAMPLES, 1, 1, 1), generator=generator).to(image)
        noisy = image + SHAP_NOISE * (image.max() - image.min()) * noise
        steps = noisy - reference
        total = torch.zeros_like(image)
        for step, place in zip(*(each.split(self.settings.batch_size) for each in (steps, places)), strict=True):
            points = (reference + place * step).detach().requires_grad_()
            gradient = self.method.attribute(points, target=label.expand(len(points)), abs=False)
            total += (step * gradient).sum(dim=0)
        return total / SAMPLES


SPECS = (
    BaselineSpec("saliency", "absolute input gradient", Saliency, passes="3"),
    BaselineSpec(
        "smoothgrad", "absolute input gradient averaged over noisy copies", SmoothGrad, passes=f"3 x {SAMPLES}"
    ),
    BaselineSpec("input_x_gradient", "image times input gradient", InputXGradient, passes="3"),
    BaselineSpec(
        "gradient_shap", "gradients between the reference and noisy copies", GradientShap, passes=f"3 x {SAMPLES}"
    ),
)
