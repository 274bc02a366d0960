"""Noisy linear imputation by hand and against quantus; ROAD on scores that read single pixels."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from aha_core.metrics import imputation, impute, removal_order, road
from aha_core.metrics.imputation import _coarse_holes, _multilevel

NO_NOISE = torch.zeros(1, 1, 1, 1, dtype=torch.float64)


def fill(rows: list[list[float]], removed: list[list[int]]) -> Tensor:
    image = torch.tensor(rows, dtype=torch.float64)[None, None]
    return impute(image, torch.tensor(removed, dtype=torch.bool)[None, None], NO_NOISE, tolerance=1e-12)[0, 0]


def test_one_pixel_is_the_weighted_mean_of_its_neighbours():
    # beside: 6 and 3 at 1/6, diagonal: 12 at 1/12
    filled = fill([[0, 6, 0], [3, 99, 0], [0, 0, 12]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert filled[1, 1].item() == pytest.approx(6 / 6 + 3 / 6 + 12 / 12)


def test_weights_at_the_border_are_normalised():
    # corner of 2x2: (b/6 + c/6 + d/12) / (5/12)
    filled = fill([[99, 1], [2, 4]], [[1, 0], [0, 0]])
    assert filled[0, 0].item() == pytest.approx((2 * 1 + 2 * 2 + 4) / 5)


def test_unknown_neighbours_are_solved_for_together():
    torch.testing.assert_close(
        fill([[0, 9, 9, 3]], [[0, 1, 1, 0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    )
    assert fill([[0.7, 9, 9]], [[0, 1, 1]]).tolist()[0] == pytest.approx([0.7, 0.7, 0.7])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_agrees_with_quantus(share: float):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party import warnings
        from quantus.functions.perturb_func import noisy_linear_imputation

        generator = torch.Generator().manual_seed(0)
        images = torch.rand((2, 3, 13, 17), generator=generator, dtype=torch.float64)
        removed = torch.rand((2, 1, 13, 17), generator=generator) < share
        theirs = [
            noisy_linear_imputation(image.numpy(), np.flatnonzero(hole), noise=0.0)
            for image, hole in zip(images, removed.flatten(1).numpy(), strict=True)
        ]
    before = images.clone()
    ours = impute(images, removed, NO_NOISE, tolerance=1e-10)
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-6)
    assert images.equal(before)
    # Negative control: another hole gives another image.
    assert (impute(images, ~removed, NO_NOISE, 1e-10) - torch.tensor(np.stack(theirs))).abs().max() > 0.05


def test_float32_at_the_default_tolerance_is_within_the_noise():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((1, 3, 48, 48), generator=generator)
    removed = torch.ones(1, 1, 48, 48, dtype=torch.bool)
    removed[..., :4] = False  # one large hole, the hard case
    exact = impute(images.double(), removed, NO_NOISE, tolerance=1e-12)
    quick = impute(images, removed, NO_NOISE.float(), tolerance=1e-4)
    assert (quick - exact).abs().max() < 2e-3


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (5, 17)])
def test_the_preconditioner_is_symmetric_and_positive(size: tuple[int, int]):
    """Conjugate gradients need both; P and P^T are written apart."""
    hole = torch.zeros(1, 1, *size, dtype=torch.float64)
    hole[..., 1:] = 1
    hole[..., 2, 3] = 0
    holes = _coarse_holes(hole)
    basis = torch.eye(size[0] * size[1], dtype=torch.float64).view(-1, 1, *size) * hole
    matrix = (_multilevel(basis, [one.expand(len(basis), -1, -1, -1) for one in holes]) * hole).flatten(1)
    torch.testing.assert_close(matrix, matrix.T)
    inside = hole.flatten().bool()
    assert torch.linalg.eigvalsh(matrix[inside][:, inside]).min() > 0
    assert len(holes) > 1


def test_known_pixels_stay_and_noise_is_added_to_the_others():
    images, removed = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    removed[..., :3] = True
    noise = torch.full((1, 3, 8, 8), 0.25)
    noisy, plain = impute(images, removed, noise, 1e-6), impute(images, removed, 0 * noise, 1e-6)
    assert noisy[..., 3:].equal(images[..., 3:])
    torch.testing.assert_close(noisy[..., :3] - plain[..., :3], noise[..., :3])


def test_nothing_can_be_imputed_from_nothing():
    with pytest.raises(ValueError, match="at least one pixel"):
        impute(torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 1, 1), 1e-4)


class TestRoad:
    """A flat image with one bright pixel; class 1 is that pixel's value, class 0 a threshold."""

    images = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    images[0, 0, 2, 2] = 1.0

    @staticmethod
    def score(x: Tensor) -> Tensor:
        spot = x[:, 0, 2, 2]
        return torch.stack([torch.full_like(spot, 0.5), spot], dim=1)

    def run(self, maps: Tensor, noise: float = 0.0, batch_size: int = 4, fractions: tuple[float, ...] = (0.2, 0.8)):
        orders = removal_order(maps, [0])
        return road(
            self.score, self.images, orders, torch.tensor([1]), [5], batch_size, fractions, noise, tolerance=1e-10
        )

    def test_by_hand(self):
        result = self.run(self.images)
        # Removed first, the spot is imputed from zeros; removed last, it stays.
        assert result.most_first.tolist() == [[0.0, 0.0]] and result.least_first.tolist() == [[1.0, 1.0]]
        assert result.gap.item() == 1.0 and result.accuracy_gap.item() == 1.0
        assert self.run(-self.images).gap.item() == -1.0  # negative control

    def test_batches_and_seeds(self):
        maps = torch.rand((1, 1, 5, 5), generator=torch.Generator().manual_seed(2))
        wide, narrow = self.run(maps, 0.01, 64), self.run(maps, 0.01, 1)
        torch.testing.assert_close(wide.most_first, narrow.most_first, atol=1e-9, rtol=0)
        assert not torch.allclose(wide.most_first, self.run(maps, 0.5, 64).most_first)

    @pytest.mark.parametrize("fraction", [0.0, 1.0])
    def test_end_points_are_refused(self, fraction: float):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            self.run(self.images, fractions=(0.5, fraction))


def test_a_hole_whose_surroundings_are_black_is_black_at_once(monkeypatch):
    image = torch.zeros(1, 3, 32, 32)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disk = (rows - 16) ** 2 + (columns - 16) ** 2 < 36
    image[..., disk] = 0.8
    removed = ((rows - 16) ** 2 + (columns - 16) ** 2 > 81)[None, None]  # a black rim remains around the disk
    calls, original = [], imputation._neighbours

    def counted(x):
        calls.append(1)
        return original(x)

    monkeypatch.setattr(imputation, "_neighbours", counted)
    filled = impute(image, removed, torch.zeros(1, 1, 1, 1), tolerance=1e-3)
    assert filled.equal(image) and len(calls) < 10
