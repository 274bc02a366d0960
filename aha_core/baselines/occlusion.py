"""Occlusion (Zeiler & Fergus, ECCV 2014), by captum: the drop of the score under a sliding window.

    map_ij = mean over windows W with ij in W of  P(c | x) - P(c | x with W replaced by the reference)

The window is one cell of the patch grid, the stride half of it. Scores are the contract's probabilities.
"""

from __future__ import annotations

from captum.attr import Occlusion as CaptumOcclusion
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSettings, BaselineSpec
from aha_core.targets import Target


class Occlusion(Baseline):
    """Mean drop of the class probability over the windows that cover a pixel."""

    def __init__(self, target: Target, settings: BaselineSettings) -> None:
        super().__init__(target, settings)
        self.method = CaptumOcclusion(target.probabilities)

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        window = [max(side // self.settings.patch_grid, 1) for side in x.shape[-2:]]
        strides = [max(side // 2, 1) for side in window]
        attribution = self.method.attribute(
            x,
            sliding_window_shapes=(3, *window),
            strides=(3, *strides),
            baselines=self.settings.reference(x),
            target=classes,
            perturbations_per_eval=max(self.settings.batch_size // len(x), 1),
        )
        return attribution[:, :1]  # one window covers all channels, so they are equal


SPEC = BaselineSpec(
    "occlusion", "drop of the probability under a sliding window", Occlusion, passes="about (2 patch_grid - 1)^2"
)
