"""The feature map that class activation methods weigh, and its gradient.

A is what the classifier pools: `forward_features` of a convolutional or hierarchical model (channels last in Swin). In
a ViT that map's patches do not reach the class token any more, so A is the input of the last attention (`norm1` of the
last block) without prefix tokens. timm's split into features and head needs no table of layer names per architecture.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.baselines.attention import token_grid
from aha_core.baselines.base import class_scores
from aha_core.errors import TargetError
from aha_core.targets import Target


def needs_feature_map(target: Target) -> str | None:
    """Reason why no feature map can be found, or None."""
    model = target.model
    if hasattr(model, "num_prefix_tokens") and _last_norm(model) is None:
        return f"needs `norm1` in the last transformer block; {target.name} has none"
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return f"needs timm's forward_features and forward_head; {target.name} lacks them"
    return None if _last_norm(model) is not None else _no_pooled_grid(target)


@torch.no_grad()
def _no_pooled_grid(target: Target) -> str | None:
    """Reason why the features that the classifier pools are no grid, from one black image."""
    try:
        last = target.probe((1.0,)).levels[0]
    except TargetError as error:
        return f"finds no feature map: {error}"
    x = torch.zeros(1, 3, target.image_size, target.image_size, device=last.device)
    final = target.model.forward_features(target.normalise(x))
    if final.ndim == 3 and final.shape[1] != last[0, 0].numel():
        return f"needs a feature map that the classifier pools; {target.name} reads class tokens"
    return None


def feature_map(target: Target, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
    """A of each image."""
    with torch.no_grad():
        norm = _last_norm(target.model)
        if norm is None:
            return _channels_first(target, _pooled_features(target, x), x.shape)
        captured: list[Tensor] = []
        handle = norm.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
        try:
            target(x)
        finally:
            handle.remove()
        return _on_grid(target, captured[0], x.shape)


def feature_gradients(
    target: Target, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K h w"]]:
    """A and dS_c / dA of each image, S_c the class logit."""
    norm = _last_norm(target.model)
    if norm is None:
        features = _pooled_features(target, x).requires_grad_()
        scores = class_scores(target.model.forward_head(features), classes)
        (gradient,) = torch.autograd.grad(scores.sum(), features)
        return _channels_first(target, features.detach(), x.shape), _channels_first(target, gradient, x.shape)
    captured: list[Tensor] = []

    def make_leaf(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    handle = norm.register_forward_hook(make_leaf)
    try:
        scores = class_scores(target(x), classes)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), captured[0])
    return _on_grid(target, captured[0].detach(), x.shape), _on_grid(target, gradient, x.shape)


def _pooled_features(target: Target, x: Tensor) -> Tensor:
    with torch.no_grad():
        return target.model.forward_features(target.normalise(x))


def _channels_first(target: Target, features: Tensor, size: torch.Size) -> Float[Tensor, "B K h w"]:
    if features.ndim == 3:
        return features.transpose(1, 2).unflatten(2, token_grid(target, features.shape[1], size))
    channels_last = getattr(target.model, "output_fmt", "NCHW") == "NHWC"
    return features.permute(0, 3, 1, 2) if channels_last else features


def _on_grid(target: Target, tokens: Float[Tensor, "B N K"], size: torch.Size) -> Float[Tensor, "B K h w"]:
    joined_later = any(hasattr(target.model, name) for name in ("blocks_token_only", "cls_attn_blocks"))  # CaiT, XCiT
    prefix = 0 if joined_later else target.num_prefix_tokens
    patches = tokens[:, prefix:].transpose(1, 2)
    return patches.unflatten(2, token_grid(target, patches.shape[2], size))


def _last_norm(model: Any) -> nn.Module | None:
    """`norm1` of the last block of a transformer, or None."""
    if not hasattr(model, "num_prefix_tokens") or not len(getattr(model, "blocks", ())):
        return None
    return getattr(model.blocks[-1], "norm1", None)
