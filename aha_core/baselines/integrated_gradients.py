"""Integrated Gradients (Sundararajan, Taly & Yan, ICML 2017), by captum.

    IG(x) = (x - r) * integral_0^1 ds_c / dx (r + a (x - r)) da

along the straight path in pixel space from the reference r to the image, Gauss-Legendre quadrature. The map is
sum_channel |IG|: on ViT-Tiny and 40 Imagenette images its SRG with a black (blurred) reference was .211 (.210), that of
|sum_channel IG| .156 (.236) and that of the signed sum .025 (.026).
"""

from __future__ import annotations

from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSettings, BaselineSpec
from aha_core.targets import Target


class IntegratedGradients(Baseline):
    """Path integral of the gradient from the reference image."""

    def __init__(self, target: Target, settings: BaselineSettings) -> None:
        super().__init__(target, settings)
        self.method = CaptumIntegratedGradients(target)

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        attribution = self.method.attribute(
            x,
            baselines=self.settings.reference(x),
            target=classes,
            n_steps=self.settings.ig_steps,
            internal_batch_size=self.settings.batch_size,
        )
        return attribution.abs().sum(dim=1, keepdim=True)


SPEC = BaselineSpec(
    "integrated_gradients", "gradient integrated from the reference image", IntegratedGradients, passes="3 x ig_steps"
)
