"""vit_convstem_mini: the classifier of the embedded profile, registered with timm under that name."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem

from aha_core.errors import TargetError


@register_model
def vit_convstem_mini(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Small ViT that trains from scratch in minutes: convolutional stem of stride 8, 3 blocks of 96 channels (0.4 M).

    The stem follows "Early Convolutions Help Transformers See Better" (Xiao et al., 2021). The values and output
    projections of attention start near the identity, a simple case of "Mimetic Initialization of Self-Attention Layers"
    (Trockman & Kolter, 2023): the class token then sees the mean feature from the first step on, where the default
    initialisation stays at chance for the first epochs.
    """
    if pretrained:
        raise TargetError("vit_convstem_mini has no pretrained weights; use target.source: train")
    channels, strides, kernels = (24, 48, 48, 96, 96, 96), (2, 2, 1, 2, 1, 1), (5, 3, 3, 3, 3, 1)
    stem = ConvStem(channels=channels, depth=len(channels), stride=strides, kernel_size=kernels)
    settings: dict[str, Any] = {
        "img_size": 64, "patch_size": 1, "embed_dim": 96, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0,
        "embed_layer": partial(HybridEmbed, backbone=stem, proj=False),
    }  # fmt: skip
    settings.update({key: value for key, value in kwargs.items() if key in ("img_size", "num_classes")})
    model = VisionTransformer(**settings)
    with torch.no_grad():
        for block in model.blocks:
            attention: Any = block.attn
            value_rows = attention.qkv.weight[2 * model.embed_dim :]
            for weight in (value_rows, attention.proj.weight):
                weight += torch.eye(model.embed_dim)
    half = (0.5, 0.5, 0.5)
    model.pretrained_cfg = model.default_cfg = {
        "architecture": "vit_convstem_mini", "num_classes": model.num_classes, "mean": half, "std": half,
        "input_size": (3, settings["img_size"], settings["img_size"]), "crop_pct": 1.0, "interpolation": "bilinear",
        "classifier": "head",
    }  # fmt: skip
    return model
