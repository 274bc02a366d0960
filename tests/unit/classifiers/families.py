"""One small member of each family, random weights."""

import timm
import torch
from torch import nn

from aha_core.classifiers.zero_shot import attach_zero_shot
from aha_core.targets import Target

CLASSES = 10
TINY_VIT = {"embed_dim": 48, "depth": 3, "num_heads": 3}
# name of the case: timm name, image size, smaller than timm's smallest variant where that is large
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", 64, TINY_VIT),
    "vit_average_pooled": ("vit_tiny_patch16_224", 64, TINY_VIT | {"global_pool": "avg", "class_token": False}),
    "vit_oblong_patches": ("vit_tiny_patch16_224", 64, TINY_VIT | {"patch_size": (16, 8)}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", 64, TINY_VIT),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", 70, TINY_VIT),
    "dinov3": ("vit_small_patch16_dinov3", 64, TINY_VIT),
    "clip": ("vit_base_patch16_clip_224", 64, TINY_VIT),
    "clip_zero_shot": ("vit_base_patch16_clip_224", 64, TINY_VIT | {"num_classes": 24}),
    "siglip": ("vit_base_patch16_siglip_224", 64, TINY_VIT),
    "beit": ("beit_base_patch16_224", 64, TINY_VIT),
    "swin": ("swin_tiny_patch4_window7_224", 64, {"embed_dim": 12, "depths": (1, 1, 2), "num_heads": (1, 2, 2)}),
    "convnext": ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "resnet": ("resnet18", 64, {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}),
    "mobilenetv2": ("mobilenetv2_035", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "efficientnet": ("test_efficientnet", 64, {}),
}


def make_family(case: str) -> Target:
    """A random target whose classes differ and depend on the image."""
    name, size, settings = FAMILIES[case]
    settings = {"num_classes": CLASSES} | settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, img_size=size, **settings)
        except TypeError:
            model = timm.create_model(name, **settings)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        if case == "clip_zero_shot":
            attach_zero_shot(model, name, torch.randn(CLASSES, 24), temperature=0.1)
    return Target(name, model, size, [f"c{i}" for i in range(CLASSES)])
