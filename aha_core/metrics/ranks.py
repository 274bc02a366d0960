"""Rankings of methods: how stable they are, and which methods they cannot tell apart.

stability    the rank of each method's mean score in bootstrap resamples of the images: 95 % interval, share of firsts
difference   mean of the per-image ranks (Friedman); two methods are joined where a Wilcoxon signed-rank test,
             Holm-corrected over all pairs, finds no difference, and a group is a run of methods in rank order all of
             whose pairs are joined (Demsar, JMLR 2006, with the tests of Benavoli et al., JMLR 2016)

Rank 1 is the largest score; equal scores share their mean rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from aha_core.metrics.statistics import DRAWS_IN_MEMORY, holm


@dataclass(frozen=True)
class RankStability:
    """Rank of one method over resamples: median, 95 % interval, share of resamples in which it is first."""

    rank: float
    low: float
    high: float
    first: float


@dataclass(frozen=True)
class CriticalDifference:
    """mean_ranks: per method; p_friedman: that all methods are equal; groups: methods that cannot be told apart."""

    mean_ranks: tuple[float, ...]
    p_friedman: float
    groups: tuple[tuple[int, ...], ...]


def rank_stability(values: Float[NDArray[np.float64], "n m"], resamples: int, seed: int) -> list[RankStability]:
    """Bootstrap over the n images of the ranking of m methods. Raises ValueError for NaN or no images."""
    scores = _checked(values)
    generator = np.random.default_rng(seed)
    ranks = []
    for start in range(0, resamples, step := max(1, DRAWS_IN_MEMORY // scores.size)):
        draws = generator.integers(len(scores), size=(min(step, resamples - start), len(scores)))
        ranks.append(stats.rankdata(-scores[draws].mean(axis=1), axis=1))
    every = np.concatenate(ranks)
    low, middle, high = np.quantile(every, [0.025, 0.5, 0.975], axis=0)
    first = (every == every.min(axis=1, keepdims=True)).mean(axis=0)
    return [RankStability(*(float(v) for v in one)) for one in zip(middle, low, high, first, strict=True)]


def critical_difference(values: Float[NDArray[np.float64], "n m"], alpha: float) -> CriticalDifference:
    """Mean ranks of m methods over n images and the groups that level alpha does not separate.

    With two methods the Friedman test is not defined; its p is the pair's.
    """
    scores = _checked(values)
    methods = scores.shape[1]
    mean_ranks = stats.rankdata(-scores, axis=1).mean(axis=0)
    pairs = list(combinations(range(methods), 2))
    p_values = [_wilcoxon(scores[:, a] - scores[:, b]) for a, b in pairs]
    joined = {pair for pair, p in zip(pairs, holm(p_values), strict=True) if p >= alpha}
    order = [int(place) for place in np.argsort(mean_ranks, kind="stable")]
    runs: list[tuple[int, int]] = []
    for start in range(methods):
        end = start
        while end + 1 < methods and all(
            (min(order[end + 1], other), max(order[end + 1], other)) in joined for other in order[start : end + 1]
        ):
            end += 1
        if end > start and not any(first <= start and end <= last for first, last in runs):
            runs.append((start, end))
    p_friedman = _friedman(scores) if methods > 2 else (p_values[0] if p_values else 1.0)
    groups = tuple(tuple(order[first : last + 1]) for first, last in runs)
    return CriticalDifference(tuple(float(rank) for rank in mean_ranks), p_friedman, groups)


def _friedman(scores: NDArray[np.float64]) -> float:
    if len(scores) < 2 or not np.ptp(scores, axis=1).any():
        return 1.0
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def _checked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0 or np.isnan(scores).any():
        raise ValueError(f"expected a table of images x methods without NaN, got shape {scores.shape}")
    return scores
