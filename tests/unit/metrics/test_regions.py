"""Boxes, overlap, boundaries and sparseness by hand, and against scikit-learn, quantus and plain loops."""

import warnings

import numpy as np
import pytest
import torch

from aha_core.errors import DataError
from aha_core.metrics import (
    average_precision,
    best_iou,
    boundary_alignment,
    bounding_boxes,
    box_masks,
    gini,
    mean_threshold_iou,
    off_centre,
)
from aha_core.metrics.boundary import boundary, boundary_f

MAP = torch.tensor([[3.0, -5.0, 1.0], [0.0, 2.0, -1.0], [4.0, 0.0, 0.0]])[None, None]
LEFT = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)[None, None]


def square(top: int, left: int, side: int, size: int = 12) -> torch.Tensor:
    return box_masks([[(top, left, top + side, left + side)]], (size, size))


class TestBoxes:
    def test_union_and_back(self):
        masks = box_masks([[(0, 1, 2, 3), (1, 2, 4, 4)], [(3, 0, 4, 1)]], (4, 5))
        expected = [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
        assert masks[0, 0].int().tolist() == expected
        assert bounding_boxes(masks).tolist() == [[0, 1, 4, 4], [3, 0, 4, 1]]

    @pytest.mark.parametrize("box", [(0, 0, 5, 2), (-1, 0, 2, 2), (2, 2, 2, 4), (0, 3, 2, 2)])
    def test_boxes_outside_are_refused(self, box):
        with pytest.raises(DataError, match=r"image 1 is not inside 4 x 5 pixels"):
            box_masks([[(0, 0, 1, 1)], [box]], (4, 5))

    def test_missing_boxes_and_masks(self):
        with pytest.raises(DataError, match="image 0 of this batch has no box"):
            box_masks([[]], (4, 5))
        with pytest.raises(DataError, match="mask of image 1"):
            bounding_boxes(torch.stack([LEFT[0], torch.zeros_like(LEFT[0])]))

    def test_off_centre(self):
        even = box_masks([[(0, 0, 2, 2)], [(2, 2, 3, 3)], [(0, 0, 6, 1)]], (6, 6))
        assert off_centre(even).tolist() == [True, False, True]
        odd = box_masks([[(2, 2, 3, 3)], [(1, 1, 2, 5)]], (5, 5))
        assert off_centre(odd).tolist() == [False, True]


class TestOverlap:
    def test_by_hand(self):
        # thresholds 4, 3, 2, 1, 0: IoU 1/3, 2/3, 2/4, 2/5, 3/7
        assert best_iou(MAP, LEFT).item() == pytest.approx(2 / 3)
        # above the mean 4/9: 3, 1, 2, 4; two of them left
        assert mean_threshold_iou(MAP, LEFT).item() == pytest.approx(2 / 5)
        # two hits at precision 1, the third among three zeros at threshold 0: precision 3/7
        assert average_precision(MAP, LEFT).item() == pytest.approx(2 / 3 + 1 / 3 * 3 / 7)

    def test_constant_maps_select_the_image(self):
        flat = torch.full_like(MAP, -2.0)
        for measure in (best_iou, mean_threshold_iou, average_precision):
            assert measure(flat, LEFT).item() == pytest.approx(1 / 3)

    def test_against_scikit_learn_and_a_loop(self):
        from sklearn.metrics import average_precision_score

        generator = torch.Generator().manual_seed(0)
        maps = torch.randint(-3, 4, (5, 1, 7, 6), generator=generator).float()
        masks = torch.rand((5, 1, 7, 6), generator=generator) < 0.3
        flat = [(mask.flatten().numpy(), one.flatten().numpy()) for mask, one in zip(masks, maps, strict=True)]
        expected = [average_precision_score(*pair) for pair in flat]
        np.testing.assert_allclose(average_precision(maps, masks), expected, atol=1e-6)
        assert np.abs(average_precision(-maps, masks).numpy() - expected).max() > 0.05
        loop = [
            max(float(((v >= t) & m).sum() / ((v >= t) | m).sum()) for t in np.unique(v)) for m, v in flat
        ]  # fmt: skip
        np.testing.assert_allclose(best_iou(maps, masks), loop, atol=1e-12)

    def test_empty_masks_are_refused(self):
        with pytest.raises(DataError, match="empty"):
            best_iou(MAP, torch.zeros_like(LEFT))


class TestBoundary:
    def test_boundary_pixels(self):
        ring = boundary(square(2, 2, 3, 7))
        assert ring.sum() == 8 and not ring[0, 0, 3, 3]
        # the border of the image is no boundary: of a half only the inner column counts
        assert boundary(LEFT).equal(LEFT)
        assert not boundary(torch.ones(1, 1, 4, 4, dtype=torch.bool)).any()

    def test_by_hand(self):
        one, shifted = square(3, 3, 3), square(3, 4, 3)
        # rings shifted by one column share the two inner columns of their upper and lower rows: 4 of 8
        assert boundary_f(one, shifted, radius=0).item() == pytest.approx(0.5)
        assert boundary_f(one, shifted, radius=1).item() == 1.0
        assert boundary_f(one, square(8, 8, 3), radius=1).item() == 0.0

    def test_top_region_of_a_map(self):
        mask = square(3, 3, 4)
        assert boundary_alignment(mask.float(), mask, [0]).item() == 1.0
        assert boundary_alignment(-mask.float(), mask, [0], radius=0).item() < 0.8  # negative control
        full = torch.ones_like(mask)
        assert boundary_alignment(mask.float(), full, [0]).item() == 1.0


def test_gini_by_hand_and_against_quantus():
    # (-3 * 1 - 1 * 2 + 1 * 3 + 3 * 4) / (4 * 10)
    assert gini(torch.tensor([2.0, -4.0, 1.0, 3.0]).view(1, 1, 2, 2)).item() == pytest.approx(0.25)
    spot = torch.zeros(1, 1, 5, 5)
    assert gini(spot).item() == 0.0 and gini(spot + 1).item() == pytest.approx(0.0)
    spot[0, 0, 1, 1] = 7.0
    assert gini(spot).item() == pytest.approx(1 - 1 / 25)
    maps = torch.rand((4, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party import and parameterisation warnings
        import quantus

        metric = quantus.Sparseness(abs=True, normalise=False, disable_warnings=True)
        theirs = metric(model=None, x_batch=maps.numpy(), y_batch=np.zeros(4, dtype=int), a_batch=maps.numpy())
    np.testing.assert_allclose(gini(maps), theirs, atol=1e-6)
    assert np.abs(gini(maps**3).numpy() - theirs).min() > 0.05
