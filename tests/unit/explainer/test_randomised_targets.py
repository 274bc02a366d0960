"""Sanity of both kinds of explainer: a map of the target's own features follows its weights, the paper's does not."""

import timm
import torch

from aha_core.attribution import Explainer
from aha_core.config import parse_params
from aha_core.explainer import build_explainer
from aha_core.explainer.backbone import Backbone
from aha_core.explainer.storage import Training
from aha_core.metrics.randomisation import model_randomisation
from aha_core.targets import Target, create_model
from tests.conftest import small_params

SIZE = 32


def likeness(section: dict, backbone: Backbone | None) -> list[float]:
    """Mean Spearman correlation with the intact target's maps after each of four depths of randomisation."""
    params = parse_params(small_params() | {"explainer": section})
    torch.manual_seed(0)
    name = "vit_convstem_mini"
    target = Target(name, create_model(name, 10, SIZE), SIZE, [str(i) for i in range(10)])
    network = build_explainer(params.explainer, target, backbone)
    with torch.no_grad():  # leave the zero initialisation of FiLM
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    training = Training(name, params.seed, params.explainer, params.ranking, params.perturbation)

    def method(model):
        return Explainer(Target(name, model, SIZE, target.class_names), network, training, params.refine)

    x = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    depths = model_randomisation(method, target.model, x, torch.tensor([0, 1, 2]), seed=0, depths=4)
    return [float(depth.spearman.mean()) for depth in depths]


def test_maps_of_the_targets_features_change_and_those_of_a_foreign_backbone_do_not():
    ours = likeness(small_params()["explainer"], None)
    assert ours[-1] < 0.5
    backbone = Backbone("test_vit", timm.create_model("test_vit", img_size=SIZE, num_classes=0), SIZE)
    named = {"source": "pretrained", "name": "test_vit", "checkpoint": "", "image_size": SIZE}
    paper = {"kind": "dpt", "stages": [0.2, 0.4, 0.8, 1.0], "channels": 16, "width": 16, "dropout": 0.0}
    assert likeness(paper | {"backbone": named}, backbone) == [1.0] * 4
