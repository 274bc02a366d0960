"""Overlays: values of a tiny case, and independence of a map's scale."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from aha_core.figures.contact_sheet import ContactSheet
from aha_core.figures.overlay import SIGNS, blend, diverging, heat, overlay, rank_levels, rank_share
from aha_core.figures.single import pictures
from aha_core.figures.terminal import in_colour, in_shades


def test_rank_shares_are_exact_and_ties_share_their_mean():
    np.testing.assert_allclose(rank_share(np.array([[3.0, -1.0], [7.0, 0.0]])), [[2 / 3, 0], [1, 1 / 3]])
    np.testing.assert_allclose(rank_share(np.array([[5.0, 1.0, 5.0]])), [[0.75, 0, 0.75]])
    np.testing.assert_allclose(rank_share(np.zeros((2, 2))), 0.5)
    np.testing.assert_allclose(rank_share(np.array([[4.0]])), 0.0)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_rank_levels_are_the_shares_rounded(values):
    scores = np.array([values], dtype=np.float32)
    np.testing.assert_allclose(rank_levels(scores), 255 * rank_share(scores), atol=0.5 + 1e-9)


ROUNDING = 2.5  # of 255: grey .85 x .5, their blend truncated 1, opacity .5, composite .5


def test_pixels_of_a_small_case():
    """Grey 100 under ranks 0 and 1: the lowest stays (grey is its own luminance), the highest is 15 % image."""
    image = np.full((1, 2, 3), 100, np.uint8)
    result = overlay(image, np.array([[0.0, 1.0]]))
    assert result[0, 0].tolist() == [100, 100, 100]
    top = np.array(matplotlib.colormaps["inferno"](1.0)[:3]) * 255
    np.testing.assert_allclose(result[0, 1], 0.15 * 100 + 0.85 * top, atol=ROUNDING)


def test_base_is_nearly_grey():
    """Pure red: luminance .299; 85 % grey gives .15 * 255 + .85 * .299 * 255 = 103 and .85 * .299 * 255 = 65."""
    image = np.zeros((1, 2, 3), np.uint8)
    image[..., 0] = 255
    np.testing.assert_allclose(overlay(image, np.array([[0.0, 1.0]]))[0, 0], [103, 65, 65], atol=ROUNDING)


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


def test_diverging_shows_signs_by_colour_and_small_values_hardly_at_all():
    image = np.full((1, 3, 3), 100, np.uint8)
    result = diverging(image, np.array([[2.0, 0.0, -3.0]]))
    assert (result[0, 1] == 100).all()
    # a = .85: .15 * 100 + .85 * (44, 123, 182); rank share 1/2 of the other: a = .2125
    np.testing.assert_allclose(result[0, 2], [52, 120, 170], atol=ROUNDING)
    np.testing.assert_allclose(result[0, 0], [128, 99, 79], atol=ROUNDING)


@given(st.integers(0, 2**32 - 1))
def test_eight_bits_are_close_to_the_formula(seed):
    rng = np.random.default_rng(seed)
    image, colours = (rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(2))
    share = rng.random((4, 4))
    base = 0.15 * image + 0.85 * (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    opacity = 0.85 * share[..., None] ** 2
    np.testing.assert_allclose(blend(image, colours, share), (1 - opacity) * base + opacity * colours, atol=ROUNDING)


def test_pictures_of_one_image():
    image = np.full((4, 8, 3), 50, np.uint8)
    scores = np.arange(8.0).reshape(2, 4)
    made = pictures(image, scores, keep=0.25)
    assert made.overlay.shape == (4, 8, 3)
    assert made.heat.convert("RGB").getpixel((7, 3)) == tuple(heat(np.ones(1))[0].tolist())
    cutout = np.asarray(made.cutout)
    opaque = cutout[..., 3] == 255
    assert opaque[3, 7] and not opaque[0].any()
    assert (cutout[opaque] == [50, 50, 50, 255]).all()
    assert (cutout[~opaque, 3] == 0).all()
    signed = pictures(image, scores - 3, keep=1, contrast=True)
    assert signed.heat.convert("RGB").getpixel((7, 3)) == SIGNS[0]
    red, _, blue = signed.heat.convert("RGB").getpixel((0, 0))
    assert blue > red
    assert (np.asarray(signed.cutout)[..., 3] == 255).all()


def test_terminal_map():
    scores = np.linspace(0, 1, 64).reshape(8, 8)
    lines = in_shades(scores, columns=8).splitlines()
    assert [len(line) for line in lines] == [8] * 4
    assert lines[0][0] == " " and lines[-1][-1] == "\u2588"
    picture = np.zeros((8, 8, 3), np.uint8)
    assert in_colour(picture, columns=8).plain == ("\u2580" * 8 + "\n") * 4


def test_contact_sheets_are_paged():
    sheet = ContactSheet()
    picture = np.zeros((10, 20, 3), np.uint8)
    pages = [page for index in range(50) for page in sheet.add(picture, [f"image {index} " * 20, "class"])]
    pages += list(sheet.rest())
    assert [number for number, _ in pages] == [1, 2]
    assert pages[1][1].draw().width < pages[0][1].draw().width
    assert list(sheet.rest()) == []


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60))
def test_rank_shares_are_scipys_mean_ranks(values):
    scores = np.array(values, np.float32)[None]
    expected = (rankdata(scores, method="average") - 1) / max(1, scores.size - 1)
    np.testing.assert_allclose(rank_share(scores)[0], expected, atol=1e-12)
