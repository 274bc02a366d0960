"""Real ViT-Tiny on Imagenette: the baselines keep the order that the literature gives them."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from aha_core.baselines import BaselineSettings, make_baseline
from aha_core.metrics import curve_fractions, deletion_insertion, endpoint_scores, removal_order
from aha_core.targets import Target, create_model, load_weights

IMAGES = 16
ROOT = os.environ.get("AHA_REAL_DATA")

pytestmark = pytest.mark.skipif(ROOT is None, reason="AHA_REAL_DATA is not set")


@pytest.fixture(scope="module")
def target() -> Target:
    model = create_model("vit_tiny_patch16_224", 1000, 224)
    load_weights(model, Path(str(ROOT)) / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors", "ViT-Tiny")
    return Target("vit_tiny_patch16_224.augreg_in21k_ft_in1k", model, 224, [str(i) for i in range(1000)])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    folders = [sorted(folder.iterdir()) for folder in sorted((Path(str(ROOT)) / "imagenette224/val").iterdir())]
    files = [folders[i % len(folders)][i // len(folders)] for i in range(IMAGES)]
    return torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files])


def test_srg_keeps_the_known_order(target: Target, images: torch.Tensor):
    settings = BaselineSettings(
        seed=0,
        ig_steps=8,
        rise_masks=8,
        patch_grid=3,
        mask_steps=3,
        batch_size=16,
        reference=torch.zeros_like,
        fastshap=None,
    )
    with torch.no_grad():
        classes = target(images).argmax(dim=1)
    counts, _ = curve_fractions(7, 224 * 224)
    black = torch.zeros_like(images)
    ends = endpoint_scores(target.probabilities, images, classes, black, settings.batch_size)
    srg = {}
    for name in ("chefer", "grad_cam", "random"):
        maps = make_baseline(name, target, settings).attribute(images, classes)
        order = removal_order(maps, range(IMAGES), name)
        curves = deletion_insertion(target.probabilities, images, order, classes, black, counts, 16, ends)
        srg[name] = curves.srg.mean().item()
    assert srg["chefer"] > srg["grad_cam"] + 0.05
    assert srg["grad_cam"] > srg["random"] + 0.05
    assert abs(srg["random"]) < 0.05
