"""Score-CAM (Wang et al., CVPR Workshops 2020): feature maps weighted by what they let through, without gradients.

    map = relu(sum_k w_k A_k),   w = softmax_k s_c(x * H_k),   H_k: A_k scaled to [0, 1], enlarged bilinearly

with A of `feature_maps` and the class logit s_c; subtracting the score of a baseline image, as the paper does, leaves
the softmax unchanged. Removed pixels are black in pixel space. One forward pass per channel of A: 192 in ViT-Tiny,
1280 in MobileNetV2. torchcam's ScoreCAM gives the same map (tested) but cannot be told a batch-size cap per call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec, class_scores
from aha_core.baselines.feature_maps import feature_map, needs_feature_map


class ScoreCAM(Baseline):
    """Activation masks weighted by the class score of the masked image."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        features = feature_map(self.target, x)
        with torch.no_grad():
            scores = torch.stack([self._scores(*one) for one in zip(x, features, classes, strict=True)])
            weights = scores.float().softmax(dim=1)
        return (weights[:, :, None, None] * features).sum(dim=1, keepdim=True).relu()

    def _scores(
        self, image: Float[Tensor, "3 H W"], features: Float[Tensor, "K h w"], label: Int[Tensor, ""]
    ) -> Float[Tensor, "K"]:
        low, high = features.amin(dim=(1, 2), keepdim=True), features.amax(dim=(1, 2), keepdim=True)
        masks = ((features - low) / (high - low + EPSILON))[:, None]
        scores = []
        for part in masks.split(self.settings.batch_size):
            large = F.interpolate(part, size=image.shape[-2:], mode="bilinear", align_corners=False)
            scores.append(class_scores(self.target(image * large), label.expand(len(part))))
        return torch.cat(scores)


EPSILON = 1e-8  # of a channel without any range, which masks everything

SPEC = BaselineSpec(
    "score_cam", "feature maps weighted by the score they let through", ScoreCAM,
    passes="1 per feature channel", applies_to=needs_feature_map, families="CNNs, hierarchical, ViTs")  # fmt: skip
