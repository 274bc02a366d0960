"""MAS, SaCo and single-deletion correlation with hand-computed numbers, Spearman and SSIM against scipy and skimage."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from aha_core.metrics import (
    deletion_effects,
    deletion_insertion,
    magnitude_aligned,
    removal_order,
    saco,
    single_deletion_correlation,
    spearman,
    ssim,
    unit_range,
)
from aha_core.metrics.correlation import average_ranks
from aha_core.metrics.single_deletion import cell_index


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(dim=1, keepdim=True)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 2, -1)


GOLDEN = pixels(0.4, 0.3, 0.2, 0.1)


def mas(maps: Tensor, image: Tensor = GOLDEN, score=total):
    orders, counts = removal_order(maps, [0]), torch.tensor([0, 2, 4])
    curves = deletion_insertion(score, image, orders, torch.tensor([0]), torch.zeros_like(image), counts, 8)
    return magnitude_aligned(curves, maps, orders, counts)


class TestMas:
    def test_right_magnitudes_are_not_penalised(self):
        """The golden curves of the contract: 1, .3, 0 and 0, .7, 1; the map's mass is inserted as 0, .7, 1."""
        result = mas(GOLDEN)
        assert result.deletion.item() == pytest.approx(0.4) and result.insertion.item() == pytest.approx(0.6)
        assert mas(1000 * GOLDEN).insertion.item() == pytest.approx(0.6)  # the scale does not matter

    def test_wrong_magnitudes_are(self):
        """Same order, mass 0, .98, 1: insertion .7 - .28 = .42, deletion .3 + .28 = .58 in the middle."""
        result = mas(pixels(0.97, 0.01, 0.01, 0.01))
        assert result.insertion.item() == pytest.approx(0.46)
        assert result.deletion.item() == pytest.approx(0.54)
        assert result.difference.item() == pytest.approx(-0.08)

    def test_curves_are_made_monotone_and_clipped(self):
        """Insertion .0, 1.2, 1 (the last two pixels lower the score): clipped to 0, 1, 1; mass 0, .5, 1."""
        image = pixels(0.6, 0.6, -0.1, -0.1)
        result = mas(torch.ones(1, 1, 2, 2) + 1e-9 * image, image)
        assert result.insertion.item() == pytest.approx(0.5)  # 1 - .5 = .5 in the middle
        # Deletion 1, -.2, 0 -> 1, 0, 0; |0 - .5| = .5 in the middle.
        assert result.deletion.item() == pytest.approx(0.5, abs=1e-6)

    def test_a_flat_curve_is_worth_the_diagonal(self):
        result = mas(GOLDEN, score=lambda x: torch.ones(len(x), 1, dtype=x.dtype))
        assert result.insertion.item() == 0.5 and result.deletion.item() == 0.5

    def test_maps_without_positive_values_count_as_uniform(self):
        uniform, negative = mas(torch.ones(1, 1, 2, 2)), mas(-torch.ones(1, 1, 2, 2))
        assert uniform.insertion.equal(negative.insertion)


class TestSaco:
    image = pixels(0.4, 0.1, 0.2, 0.3)

    def run(self, maps: Tensor, groups: int = 4, batch_size: int = 3, image: Tensor | None = None) -> float:
        image = self.image if image is None else image
        orders = removal_order(maps, [0])
        score = total(image)[:, 0]
        zero = torch.zeros_like(image)
        return saco(total, image, maps, orders, torch.tensor([0]), zero, score, batch_size, groups).item()

    def test_by_hand(self):
        # salience 4 3 2 1, drops .4 .1 .2 .3: + for the three pairs with the first, - for 3-2, 3-1 and 2-1:
        # (1 + 2 + 3 - 1 - 2 - 1) / 10
        assert self.run(pixels(4, 3, 2, 1)) == pytest.approx(0.2)

    def test_extremes(self):
        assert self.run(self.image) == pytest.approx(1.0)
        assert self.run(-self.image) == pytest.approx(-1.0)  # negative control
        assert self.run(torch.ones(1, 1, 2, 2)) == 0.0

    @pytest.mark.parametrize("value", [0.1, -3.3e7])
    def test_a_constant_map_claims_nothing_where_groups_differ_in_size(self, value):
        image = torch.rand(1, 1, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert self.run(torch.full((1, 1, 7, 9), value), groups=10, image=image) == 0.0

    def test_a_group_counts_by_its_mean(self):
        image = torch.tensor([[[[0.3, 0.2, 0.4]]]], dtype=torch.float64)
        # groups {5, 4} and {3}, drops .5 and .4: by sums and by means the first claims more
        assert self.run(torch.tensor([[[[5.0, 4.0, 3.0]]]]), groups=2, image=image) == pytest.approx(1.0)
        # {-3, -4} and {-5}: by sums the second would claim more
        assert self.run(torch.tensor([[[[-3.0, -4.0, -5.0]]]]), groups=2, image=image) == pytest.approx(1.0)

        # {1, 1}, {.9, .9, .9}, {0, 0}, drops 1, .6 and .2: by sums the second would claim more than the first
        image = torch.tensor([[[[0.5, 0.5, 0.2, 0.2, 0.2, 0.1, 0.1]]]], dtype=torch.float64)
        assert self.run(torch.tensor([[[[1, 1, 0.9, 0.9, 0.9, 0, 0]]]]), groups=3, image=image) == pytest.approx(1.0)

    def test_groups_are_consecutive_ranks(self):
        # two groups {4, 3} and {2, 1}: drops .5 and .5: not smaller, so the whole weight is positive
        assert self.run(pixels(4, 3, 2, 1), groups=2) == pytest.approx(1.0)
        assert self.run(pixels(4, 1, 3, 2), groups=2, batch_size=1) == pytest.approx(1.0)  # .6 and .4
        assert self.run(pixels(1, 4, 3, 2), groups=2) == pytest.approx(-1.0)  # .3 and .7

    def test_groups_must_fit(self):
        with pytest.raises(ValueError, match="2 to 4 groups, got 5"):
            self.run(self.image, groups=5)


class TestSingleDeletion:
    def test_cells(self):
        assert cell_index(2, (4, 4)).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
        assert cell_index(2, (3, 5)).tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [2, 2, 2, 3, 3]]

    def test_by_hand(self):
        image = torch.arange(16, dtype=torch.float64).view(1, 1, 4, 4)
        reference = torch.ones_like(image)
        effects = deletion_effects(total, image, torch.tensor([0]), reference, total(image)[:, 0], 3, grid=2)
        # Cell sums 0+1+4+5, 2+3+6+7, 8+9+12+13, 10+11+14+15; four ones come in their place.
        assert effects.tolist() == [[10 - 4, 18 - 4, 42 - 4, 50 - 4]]
        assert single_deletion_correlation(image, effects, grid=2).item() == pytest.approx(1.0)
        assert single_deletion_correlation(-image, effects, grid=2).item() == pytest.approx(-1.0)
        # Ranks 4 2 3 1 against 1 2 3 4: 1 - 6 (9 + 0 + 0 + 9) / (4 * 15)
        maps = torch.tensor([[9.0, 5.0], [7.0, 1.0]]).view(1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert single_deletion_correlation(maps, effects, grid=2).item() == pytest.approx(1 - 6 * 18 / 60)
        assert single_deletion_correlation(torch.ones_like(image), effects, grid=2).item() == 0.0


def test_spearman_agrees_with_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 6, (4, 30), generator=generator), torch.rand((4, 30), generator=generator)
    assert average_ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1.0, 3.5, 2.0]]
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(spearman(a.float(), b), expected, atol=1e-12)
    assert spearman(torch.ones(1, 5), torch.rand(1, 5)).item() == 0.0


def test_ssim_agrees_with_skimage():
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    a = torch.rand((3, 1, 20, 24), generator=generator, dtype=torch.float64)
    b = 0.6 * a + 0.4 * torch.rand((3, 1, 20, 24), generator=generator, dtype=torch.float64)
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(x, y, **settings) for x, y in zip(a[:, 0].numpy(), b[:, 0].numpy(), strict=True)]
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-6)
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1]) and ssim(a, 1 - a).max() < 0
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(a[..., :10, :], b[..., :10, :])


def test_unit_range():
    maps = torch.tensor([[-2.0, 0.0, 2.0], [5.0, 5.0, 5.0]]).view(2, 1, 1, 3)
    assert unit_range(maps).flatten(1).tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
