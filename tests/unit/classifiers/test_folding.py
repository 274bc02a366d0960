"""Folded batch norms: the same logits and gradients, none left; refused where the function would be another one."""

import pytest
import torch
from torch import Tensor, nn

from aha_core.classifiers.folding import fold_batch_norms
from tests.unit.classifiers.families import FAMILIES, make_family

WITH_NORMS = {"resnet": 5, "mobilenetv2": 52, "mobilenetv3": 34, "efficientnet": 12}  # norms that follow a convolution


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def randomise(model: nn.Module) -> None:
    """A fresh batch norm is the identity, whose folding proves nothing."""
    source = torch.Generator().manual_seed(0)
    for norm in norms(model):
        norm.running_mean.uniform_(-0.3, 0.3, generator=source)
        norm.running_var.uniform_(0.5, 2, generator=source)
        norm.weight.data.uniform_(0.5, 1.5, generator=source)
        norm.bias.data.uniform_(-0.3, 0.3, generator=source)


@pytest.mark.parametrize("case", FAMILIES)
def test_it_is_the_same_classifier(case):
    target = make_family(case)
    randomise(target.model)
    target.set_normalisation([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    before = len(norms(target.model))
    folded = target.folded()
    assert (folded is target) == (case not in WITH_NORMS)
    assert len(norms(target.model)) == before, "the target itself is untouched"
    if folded is target:
        return
    assert not norms(folded.model)
    images = torch.rand(3, 3, target.image_size, target.image_size, generator=torch.Generator().manual_seed(1))
    sides = []
    for one in (target, folded):
        x = images.clone().requires_grad_()
        logits = one(x)
        features = one.features(x, (0.3, 1.0))
        sides.append((logits, torch.autograd.grad(logits[:, 0].sum(), x)[0], *features.levels, features.final))
    for plain, other in zip(*sides, strict=True):
        assert torch.allclose(plain, other, rtol=0, atol=2e-5 * float(plain.detach().abs().max()))


class Model(nn.Module):
    """conv -> norm, and by `kind` something that folding must notice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=kind != "of the batch")

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        if self.kind == "between":
            made = made + 1
        out = self.norm(made)
        if self.kind == "skip":
            out = out + made
        if self.kind == "twice":
            out = out + self.norm(self.conv(x.flip(3)))
        return out.mean(dim=(2, 3))


@pytest.mark.parametrize("kind", ["plain", "between", "skip", "twice", "of the batch"])
def test_a_norm_stays_where_it_cannot_go(kind):
    torch.manual_seed(0)
    model = Model(kind).eval()
    if kind != "of the batch":
        randomise(model)
    x = torch.rand(2, 3, 8, 8)
    folded = fold_batch_norms(model, x)
    assert (len(norms(folded)) == 0) == (kind == "plain")
    assert torch.allclose(model(x), folded(x), atol=1e-5)
