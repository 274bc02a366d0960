"""Class activation maps weighted by gradients: map = relu(sum_k w_k A_k) with A, g = ds_c / dA of `feature_maps`.

    Grad-CAM     w_k = mean_{ij} g_k,ij                                      (Selvaraju et al., ICCV 2017)
    Grad-CAM++   w_k = sum_{ij} a_k,ij relu(g_k,ij),
                 a = g^2 / (2 g^2 + g^3 sum_{ab} A_k,ab) = 1 / (2 + g sum A), 0 where g = 0
                                                                             (Chattopadhay et al., WACV 2018, eq. 19)
    LayerCAM     w_k,ij = relu(g_k,ij), one weight per place                 (Jiang et al., IEEE TIP 2021)

torchcam's Grad-CAM and LayerCAM compute the same numbers (the tests compare), but its extractors are stateful, need a
layer name for every architecture and a reshape for tokens; here all share one way to find A in any timm model. Its
GradCAMpp (0.5.0) divides a copy of a by the denominator and so never divides (a test shows it): unfit.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, where, zeros_like

from aha_core.baselines.base import Baseline, BaselineSpec
from aha_core.baselines.feature_maps import feature_gradients, needs_feature_map


class GradCAM(Baseline):
    """Feature maps weighted by their mean gradients, positive part."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        features, gradient = feature_gradients(self.target, x, classes)
        return (self._weights(features, gradient) * features).sum(dim=1, keepdim=True).relu()

    def _weights(self, features: Float[Tensor, "B K h w"], gradient: Float[Tensor, "B K h w"]) -> Tensor:
        return gradient.mean(dim=(2, 3), keepdim=True)


class GradCAMpp(GradCAM):
    """Second-order weights: several instances of a class count alike."""

    def _weights(self, features: Float[Tensor, "B K h w"], gradient: Float[Tensor, "B K h w"]) -> Tensor:
        alpha = 1 / (2 + gradient * features.sum(dim=(2, 3), keepdim=True))
        return (where(gradient != 0, alpha, zeros_like(alpha)) * gradient.relu()).sum(dim=(2, 3), keepdim=True)


class LayerCAM(GradCAM):
    """Positive gradients weigh every place by itself."""

    def _weights(self, features: Float[Tensor, "B K h w"], gradient: Float[Tensor, "B K h w"]) -> Tensor:
        return gradient.relu()


SPECS = tuple(
    BaselineSpec(
        name, description, factory, passes="3", applies_to=needs_feature_map, families="CNNs, hierarchical, ViTs"
    )
    for name, description, factory in (
        ("grad_cam", "last feature maps weighted by mean gradients", GradCAM),
        ("grad_cam_pp", "last feature maps with second-order weights", GradCAMpp),
        ("layer_cam", "last feature maps weighted place by place", LayerCAM),
    )
)
