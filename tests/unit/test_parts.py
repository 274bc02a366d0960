"""What the target sees in the parts of mosaics, and how much of a map lies outside of them."""

import pytest
import torch

from aha_core.metrics import cell_energy
from aha_core.parts import outside, read_parts
from aha_core.ranking import standardise
from aha_core.targets import Target


class Colour(Target):
    """Three classes: ten times the mean of each colour channel."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, x):
        assert len(x) and x.shape[-1] == 8
        return 10 * x.mean(dim=(2, 3))


def painted(*colours):
    """A mosaic of four one-coloured parts, row by row."""
    parts = [torch.eye(3)[colour][:, None, None].expand(3, 4, 4) for colour in colours]
    return torch.cat([torch.cat(parts[:2], dim=2), torch.cat(parts[2:], dim=2)], dim=1)


def test_a_part_is_read_alone_and_all_parts_of_its_class_count():
    images = torch.stack([painted(0, 1, 2, 1)] * 4 + [painted(0, 1, 2, 0)])
    mosaics = torch.tensor([True, True, True, True, False])
    parts = read_parts(Colour(), images, mosaics, torch.full((5,), 7), torch.tensor([0, 1, 2, 3, 0]), "fp32")
    assert parts.classes.tolist() == [0, 1, 2, 1, 7]
    assert parts.inside.flatten(1).tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]]
    sure = torch.tensor([10.0, 0.0, 0.0]).softmax(dim=0)[0].item()
    assert parts.confidence.tolist() == pytest.approx([sure] * 4 + [0.0])


def test_batches_without_mosaics_cost_no_pass():
    predicted = torch.tensor([1, 2])
    parts = read_parts(Colour(), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.bool), predicted, predicted, "fp32")
    assert torch.equal(parts.classes, predicted) and not parts.confidence.any()


def test_outside_is_the_grid_games_energy():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 1, 8, 8, generator=generator)
    inside = torch.eye(4).view(4, 1, 2, 2)
    energy = cell_energy(standardise(maps), torch.arange(4), 2)
    assert outside(maps, inside).tolist() == pytest.approx((1 - energy).tolist(), abs=1e-5)
    assert torch.allclose(outside(3 * maps + 2, inside), outside(maps, inside), atol=1e-5)  # a ranking has no zero
    whole = outside(maps[:1], torch.ones(1, 1, 2, 2))
    assert whole.item() == pytest.approx(0, abs=1e-5)


def test_parts_of_an_odd_side_and_a_constant_map():
    inside = torch.eye(4).view(4, 1, 2, 2)
    shares = 1 - outside(torch.rand(1, 1, 7, 7).expand(4, -1, -1, -1), inside)
    assert shares.sum().item() == pytest.approx(1, abs=1e-4)
    maps = torch.zeros(1, 1, 8, 8, requires_grad=True)
    outside(maps, inside[:1]).sum().backward()
    assert maps.grad.isfinite().all()


def test_its_gradient_moves_the_map_into_the_part():
    inside = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    maps = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outside(maps, inside).sum().backward()
    assert maps.grad[0, 0, :4, :4].sum() < 0 < maps.grad[0, 0, 4:].sum()
