"""Intervals and tests against closed forms and hand-computed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aha_core.metrics import bootstrap_ci, holm, paired_difference


def test_interval_is_close_to_the_normal_one_and_seeded():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    interval = bootstrap_ci(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.n == 400 and interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)
    assert interval == bootstrap_ci(values, resamples=4000, seed=1)
    assert interval != bootstrap_ci(values, resamples=4000, seed=2)


def test_wider_level_is_wider():
    values = np.random.default_rng(0).random(50)
    narrow, wide = (bootstrap_ci(values, 500, seed=0, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25, 0.25]])
def test_no_spread_gives_no_width(values: list[float]):
    interval = bootstrap_ci(values, resamples=100, seed=0)
    assert (interval.low, interval.mean, interval.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1, 0.2]]])
def test_unusable_values(values: list):
    with pytest.raises(ValueError, match="vector of numbers"):
        bootstrap_ci(values, resamples=10, seed=0)


def test_paired_difference_by_hand():
    a, b = [0.5, 0.7, 0.9, 0.6, 0.8], [0.4, 0.5, 0.6, 0.2, 0.3]
    result = paired_difference(a, b, resamples=500, seed=0)
    assert result.mean == pytest.approx(0.3)
    # All five differences .1 … .5 are positive: two-sided exact p = 2 / 2^5.
    assert result.p_value == pytest.approx(2 / 32)
    # d_z = .3 / sqrt(sum (d - .3)^2 / 4) = .3 / sqrt(.1 / 4)
    assert result.effect == pytest.approx(0.3 / np.sqrt(0.025))
    assert result.low < 0.3 < result.high and result.n == 5
    mirrored = paired_difference(b, a, resamples=500, seed=0)
    assert mirrored.mean == pytest.approx(-0.3) and mirrored.p_value == pytest.approx(result.p_value)


def test_paired_difference_of_equal_methods():
    result = paired_difference([0.1, 0.2], [0.1, 0.2], resamples=10, seed=0)
    assert (result.mean, result.p_value, result.effect) == (0.0, 1.0, None)


def test_paired_difference_of_one_image():
    result = paired_difference([0.4], [0.1], resamples=10, seed=0)
    assert result.effect is None and result.p_value == 1.0 and result.mean == pytest.approx(0.3)


def test_paired_difference_needs_pairs():
    with pytest.raises(ValueError, match="equal lengths, got 2 and 3"):
        paired_difference([0, 1], [0, 1, 2], resamples=10, seed=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        holm([0.1, float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_raises_and_keeps_the_order(p: list[float]):
    adjusted = holm(p)
    assert all(new >= raw for raw, new in zip(p, adjusted, strict=True))
    assert np.all(np.diff(np.asarray(adjusted)[np.argsort(p, kind="stable")]) >= 0)
