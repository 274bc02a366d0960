"""POS/NEG by hand on images whose prediction depends on how much is left."""

import pytest
import torch
from torch import Tensor

from aha_core.metrics import perturbation_accuracy, removal_order


def bright(x: Tensor) -> Tensor:
    """Class 1 while the left column keeps its light."""
    left = x[..., 0].flatten(1).sum(dim=1)
    return torch.stack([torch.full_like(left, 0.5), left], dim=1)


def test_by_hand():
    images = torch.ones(2, 1, 1, 10)
    maps = torch.arange(10, 0, -1.0).view(1, 1, 1, 10).expand(2, -1, -1, -1)
    orders = removal_order(maps, [0, 1])
    result = perturbation_accuracy(bright, images, orders, torch.tensor([1, 0]), batch_size=7)
    # Pixel 0 goes first in POS (right only at 0 %: half a trapezoid of width .1) and never by 90 % in NEG.
    assert result.positive_correct[0].tolist() == [True] + [False] * 9
    assert result.negative_correct[0].all()
    assert result.positive[0].item() == pytest.approx(5.0)
    assert result.negative[0].item() == pytest.approx(90.0)
    # The other label is predicted exactly where class 1 is not.
    assert result.positive_correct[1].equal(~result.positive_correct[0])
    assert result.positive[1].item() == pytest.approx(85.0)
    assert result.difference.tolist() == pytest.approx([85.0, -85.0])


def test_batches_and_inputs():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((3, 3, 4, 4), generator=generator)
    weight = torch.randn((48, 3), generator=generator)
    orders = removal_order(torch.rand((3, 1, 4, 4), generator=generator), [0, 1, 2])
    sizes, before = [], images.clone()

    def score(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.flatten(1) @ weight

    many = perturbation_accuracy(score, images, orders, score(images).argmax(1), batch_size=16)
    assert sizes == [3, 3, 16, 16, 16, 6]  # the test's own, the images, 9 fractions in 2 directions
    one = perturbation_accuracy(score, images, orders, score(images).argmax(1), batch_size=1)
    assert many.positive_correct.equal(one.positive_correct) and many.negative_correct.equal(one.negative_correct)
    assert many.positive_correct[:, 0].all() and many.negative_correct[:, 0].all()
    assert images.equal(before)
