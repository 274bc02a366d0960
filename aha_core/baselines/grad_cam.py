"""Grad-CAM (Selvaraju et al., ICCV 2017) on the last feature map.

    map = relu(sum_k w_k A_k),   w_k = mean_{ij} ds_c / dA_k,ij

A is what the classifier pools: `forward_features` of a convolutional or hierarchical model (channels last in Swin). In
a ViT that map's patches do not reach the class token any more, so A is the input of the last attention (`norm1` of the
last block) without prefix tokens. timm's split into features and head needs no table of layer names per architecture.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.baselines.attention import token_maps
from aha_core.baselines.base import Baseline, BaselineSpec, class_scores
from aha_core.errors import AttributionError
from aha_core.targets import Target


def needs_feature_map(target: Target) -> str | None:
    """Reason why no feature map can be found, or None."""
    model = target.model
    if hasattr(model, "num_prefix_tokens") and _last_norm(model) is None:
        return f"needs `norm1` in the last transformer block; {target.name} has none"
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return f"needs timm's forward_features and forward_head; {target.name} lacks them"
    return None


class GradCAM(Baseline):
    """Feature maps weighted by their mean gradients, positive part."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        last_norm = _last_norm(self.target.model)
        if last_norm is None:
            return self._from_feature_map(x, classes)
        return self._from_tokens(x, classes, last_norm)

    def _from_feature_map(self, x: Tensor, classes: Tensor) -> Float[Tensor, "B 1 h w"]:
        model = self.target.model
        with torch.no_grad():
            features = model.forward_features(self.target.normalise(x))
        if features.ndim != 4:
            raise AttributionError(f"grad_cam: the features of {self.target.name} are not maps: {features.shape}")
        features.requires_grad_()
        (gradient,) = torch.autograd.grad(class_scores(model.forward_head(features), classes).sum(), features)
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        channel, space = (3, (1, 2)) if channels_last else (1, (2, 3))
        weights = gradient.mean(dim=space, keepdim=True)
        return (weights * features).sum(dim=channel).relu()[:, None]

    def _from_tokens(self, x: Tensor, classes: Tensor, last_norm: nn.Module) -> Float[Tensor, "B 1 h w"]:
        captured: list[Tensor] = []

        def make_leaf(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            captured.append(output.detach().requires_grad_())
            return captured[-1]

        handle = last_norm.register_forward_hook(make_leaf)
        try:
            scores = class_scores(self.target(x), classes)
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(scores.sum(), captured[0])
        prefix = self.target.num_prefix_tokens
        weights = gradient[:, prefix:].mean(dim=1, keepdim=True)
        cam = (weights * captured[0][:, prefix:]).sum(dim=2).relu()
        return token_maps(self.target, cam, x.shape)


def _last_norm(model: Any) -> nn.Module | None:
    """`norm1` of the last block of a transformer, or None."""
    if not hasattr(model, "num_prefix_tokens") or not len(getattr(model, "blocks", ())):
        return None
    return getattr(model.blocks[-1], "norm1", None)


SPEC = BaselineSpec(
    "grad_cam", "last feature maps weighted by mean gradients", GradCAM, passes="3", applies_to=needs_feature_map
)
