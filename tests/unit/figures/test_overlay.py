"""Overlays: exact values of a tiny case, and independence of a map's scale."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from aha_core.figures.overlay import overlay, rank_share


def test_rank_shares_are_exact_and_ties_share_their_mean():
    np.testing.assert_allclose(rank_share(np.array([[3.0, -1.0], [7.0, 0.0]])), [[2 / 3, 0], [1, 1 / 3]])
    np.testing.assert_allclose(rank_share(np.array([[5.0, 1.0, 5.0]])), [[0.75, 0, 0.75]])
    np.testing.assert_allclose(rank_share(np.zeros((2, 2))), 0.5)
    np.testing.assert_allclose(rank_share(np.array([[4.0]])), 0.0)


def test_exact_pixels():
    """Grey 100 under ranks 0 and 1: the lowest stays (grey is its own luminance), the highest is 15 % image."""
    image = np.full((1, 2, 3), 100, np.uint8)
    result = overlay(image, np.array([[0.0, 1.0]]))
    assert result[0, 0].tolist() == [100, 100, 100]
    top = np.array(matplotlib.colormaps["inferno"](1.0)[:3]) * 255
    assert result[0, 1].tolist() == (0.15 * 100 + 0.85 * top).round().astype(int).tolist()


def test_base_is_nearly_grey():
    """Pure red: luminance .299; 85 % grey gives .15 * 255 + .85 * .299 * 255 = 103 and .85 * .299 * 255 = 65."""
    image = np.zeros((1, 2, 3), np.uint8)
    image[..., 0] = 255
    assert overlay(image, np.array([[0.0, 1.0]]))[0, 0].tolist() == [103, 65, 65]


def test_only_the_order_counts_and_inputs_stay():
    rng = np.random.default_rng(0)
    image, scores = rng.integers(0, 255, (8, 8, 3), np.uint8), rng.normal(size=(8, 8)).astype(np.float32)
    before = image.copy(), scores.copy()
    result = overlay(image, scores)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, overlay(image, np.exp(3 * scores)))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_sizes_and_nan():
    with pytest.raises(ValueError, match=r"image is \(2, 2\), map is \(3, 3\)"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="NaN"):
        overlay(np.zeros((1, 2, 3), np.uint8), np.array([[0.0, np.nan]]))
