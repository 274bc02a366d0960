"""The benchmark of evaluation counts what it says it counts."""

import timm
import torch

from aha_core.benchmarks.evaluation import evaluation_speed
from aha_core.cost import measured
from aha_core.scoring import Scorer
from aha_core.targets import Target


def test_passes_and_rates():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=1, num_heads=1, num_classes=3)
    target = Target("vit", model, 32, ["a", "b", "c"])
    images = torch.rand(3, 3, 32, 32)
    scorer = Scorer(target, "fp32", 5, 1.0)
    with measured(target) as cost:
        speed = evaluation_speed(
            scorer, images, torch.rand(3, 1, 32, 32), torch.tensor([0, 1, 2]), torch.zeros_like(images), 4, 2
        )
    assert speed.passes == 3 * (2 * 2 + 2)  # two inner points in two directions, two end points
    assert cost.forward == 2 * 3 * speed.passes  # plain and evaluated, three rounds
    assert speed.plain > 0 and speed.evaluation > 0 and 0 < speed.efficiency < 10
