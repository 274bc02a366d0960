"""Mosaics cell by cell, and their score."""

import pytest
import torch

from aha_core.errors import DataError
from aha_core.metrics import alone, cell_energy, cell_hit, cell_rank_accuracy, choose_cells, mosaics, shrink
from aha_core.metrics.grid_pointing import cell_masks


@pytest.mark.parametrize("side", [2, 3])
def test_each_cell_shows_its_image(side: int):
    colours = torch.linspace(0, 1, 9).view(9, 1, 1, 1).expand(9, 3, 12, 12)
    cells = [list(range(side * side)), list(range(side * side))[::-1]]
    made = mosaics(colours, torch.arange(9) + 10, cells, side)
    assert made.images.shape == (2, 3, 12, 12)
    assert made.classes.tolist() == [[place + 10 for place in row] for row in cells]
    masks = cell_masks(side, (12, 12))
    for mosaic, row in zip(made.images, cells, strict=True):
        for mask, place in zip(masks, row, strict=True):
            torch.testing.assert_close(mosaic[:, mask[0]], colours[place, :, : 12 // side, : 12 // side].flatten(1))


def test_an_image_alone_is_in_the_middle_of_the_colour():
    images, colour = torch.rand(2, 3, 8, 8), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    before = images.clone()
    single = alone(images, 2, colour)
    assert single.shape == images.shape
    torch.testing.assert_close(single[:, :, 2:6, 2:6], shrink(images, (4, 4)))
    single[:, :, 2:6, 2:6] = colour
    torch.testing.assert_close(single, colour.expand_as(single))
    torch.testing.assert_close(images, before)


def test_energy_in_the_right_cell():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 3], maps[0, 0, 3, 3], maps[0, 0, 3, 0] = 3.0, 1.0, -5.0  # cells 1, 3 and 2 of 2 x 2
    assert cell_energy(maps, torch.tensor([1, 1]), 2).tolist() == [0.75, 0.25]  # a zero map is worth chance
    assert cell_energy(maps, torch.tensor([2, 0]), 2).tolist() == [0.0, 0.25]
    assert cell_energy(torch.ones(1, 1, 6, 6), torch.tensor([4]), 3).item() == pytest.approx(1 / 9)


def test_the_maximum_in_the_right_cell():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 3], maps[0, 0, 3, 3], maps[0, 0, 3, 2] = 3.0, 2.0, 2.0  # more in cell 3, the maximum in cell 1
    assert cell_hit(maps[[0, 0]], torch.tensor([1, 3]), 2, [0, 1]).tolist() == [True, False]
    flat = cell_hit(maps[[1] * 400], torch.zeros(400, dtype=torch.long), 2, range(400))  # ties fall by chance
    assert 0.15 < flat.double().mean().item() < 0.35


def test_a_perfect_order_with_its_zero_at_the_mean_keeps_a_fifth_of_its_energy_outside():
    values = torch.randn(100 * 100, generator=torch.Generator().manual_seed(0)).sort(descending=True).values
    blocks = values.view(2, 2, 50, 50)  # cells 0 to 3, the quarter of the highest values first
    maps = blocks.permute(0, 2, 1, 3).reshape(1, 1, 100, 100)
    cells = torch.tensor([0])
    assert cell_energy(maps, cells, 2).item() == pytest.approx(0.797, abs=0.01)
    assert cell_rank_accuracy(maps, cells, 2, [0]).item() == 1
    assert cell_rank_accuracy(-maps, torch.tensor([3]), 2, [0]).item() == 1
    assert cell_rank_accuracy(maps, torch.tensor([1]), 2, [0]).item() == 0
    assert cell_hit(maps, cells, 2, [0]).item()


class TestChoice:
    classes = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    confidences = [0.9, 0.8, 0.7, 0.95, 0.6, 0.55, 0.99, 0.54, 0.53]

    def test_distinct_classes_confident_first_and_no_image_twice(self):
        chosen = choose_cells(self.classes, self.confidences, 2, 2, seed=0)
        assert sorted(chosen[0]) == [0, 3, 4, 6]  # the classes with two images, the more confident of each
        for cells in chosen:
            assert len({self.classes[place] for place in cells}) == 4
        used = sum(chosen, [])
        assert len(set(used)) == len(used)
        assert chosen == choose_cells(self.classes, self.confidences, 2, 2, seed=0)
        assert any(chosen != choose_cells(self.classes, self.confidences, 2, 2, seed) for seed in range(1, 5))

    def test_too_few_classes(self):
        with pytest.raises(DataError, match=r"9 images of 5 classes .* do not fill one mosaic of 3 x 3"):
            choose_cells(self.classes, self.confidences, 3, 1, seed=0)

    def test_images_that_are_hardly_recognised_do_not_play(self):
        doubtful = [0.49 if label == 4 else one for label, one in zip(self.classes, self.confidences, strict=True)]
        assert all(8 not in cells for cells in choose_cells(self.classes, doubtful, 2, 9, seed=0))
        with pytest.raises(DataError, match="0 images of 0 classes that are recognised with a probability of 0.5"):
            choose_cells(self.classes, [0.4] * 9, 2, 1, seed=0)

    def test_as_many_as_can_be_filled(self):
        assert len(choose_cells(self.classes, self.confidences, 2, 9, seed=0)) == 2


@pytest.mark.parametrize(("size", "side"), [((64, 64), 3), ((224, 224), 3), ((10, 7), 4), ((6, 6), 3)])
def test_any_grid_fills_any_image(size, side):
    """Images of one colour each: every cell's mask covers exactly its image."""
    levels = torch.linspace(0.1, 0.9, side * side)
    images = levels.view(-1, 1, 1, 1).expand(-1, 3, *size)
    made = mosaics(images, torch.arange(side * side), [list(range(side * side))], side).images[0]
    for level, mask in zip(levels, cell_masks(side, size), strict=True):
        torch.testing.assert_close(made[:, mask[0]], level.expand(3, int(mask.sum())))
    areas = cell_masks(side, size).flatten(1).sum(dim=1)
    assert int(areas.sum()) == size[0] * size[1] and areas.max() <= (-(-size[0] // side)) * (-(-size[1] // side))
