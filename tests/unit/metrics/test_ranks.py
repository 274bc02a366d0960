"""Rank stability and critical differences on tables whose answer is plain."""

import numpy as np
import pytest
from scipy import stats

from aha_core.metrics.ranks import critical_difference, rank_stability

CLEAR = np.array([[3.0, 1.0, 2.0]] * 12) + np.linspace(0, 0.1, 12)[:, None]


def test_clear_order():
    best, worst, middle = rank_stability(CLEAR, resamples=50, seed=0)
    assert (best.rank, best.low, best.high, best.first) == (1, 1, 1, 1)
    assert (worst.rank, middle.rank, worst.first) == (3, 2, 0)
    result = critical_difference(CLEAR, alpha=0.05)
    assert result.mean_ranks == (1, 3, 2) and result.groups == ()
    assert result.p_friedman == pytest.approx(stats.friedmanchisquare(*CLEAR.T).pvalue)


def test_methods_that_cannot_be_told_apart_are_joined():
    noise = np.random.default_rng(0).normal(0, 1, (40, 4))
    table = noise + np.array([0.0, 0.05, 5.0, 0.1])
    result = critical_difference(table, alpha=0.05)
    assert result.mean_ranks[2] == 1.0
    assert [sorted(group) for group in result.groups] == [[0, 1, 3]]
    stability = rank_stability(table, resamples=400, seed=1)
    assert stability[2].first == 1.0
    assert min(one.low for place, one in enumerate(stability) if place != 2) == 2
    assert max(one.high for one in stability) == 4
    assert stability == rank_stability(table, resamples=400, seed=1)


def test_overlapping_groups():
    """a = b and b = c, but a > c: two bars."""
    steps = np.linspace(-1, 1, 10)[:, None]
    table = np.hstack([steps + 0.9, steps[::-1] + 0.45, steps])
    result = critical_difference(table, alpha=0.05)
    assert [sorted(group) for group in result.groups] == [[0, 1], [1, 2]]


def test_ties_two_methods_and_bad_tables():
    same = critical_difference(np.ones((5, 3)), alpha=0.05)
    assert same.mean_ranks == (2, 2, 2) and same.p_friedman == 1.0 and sorted(same.groups[0]) == [0, 1, 2]
    assert critical_difference(CLEAR[:, :2], alpha=0.05).groups == ()
    assert rank_stability(np.ones((5, 2)), 10, 0)[0].first == 1.0  # both share the first place
    with pytest.raises(ValueError, match="without NaN"):
        rank_stability(np.array([[np.nan, 1.0]]), 10, 0)
