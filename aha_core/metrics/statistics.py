"""What n images allow to say: bootstrap intervals, paired comparisons, correction for many of them.

interval      percentile bootstrap of the mean over images (Efron & Tibshirani 1993, §13.3)
comparison    d_i = a_i - b_i: mean with interval, Wilcoxon signed-rank p (two-sided), d_z = mean(d) / sd(d)
correction    Holm (1979): p'_(k) = max_{j<=k} min(1, (m - j + 1) p_(j)) for sorted p_(1) <= … <= p_(m)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

# Bootstrap draws held at once: 4e6 float64 values and as many indices are 64 MB.
DRAWS_IN_MEMORY = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Mean of n values with the ends of its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over n images.

    p_value: two-sided Wilcoxon, not corrected; 1 where all differences are 0.
    effect: d_z; None where it is not defined (one image, or no spread).
    """

    mean: float
    low: float
    high: float
    p_value: float
    effect: float | None
    n: int


def bootstrap_ci(values: ArrayLike, resamples: int, seed: int, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean. One value gives an interval of width 0.

    Raises ValueError for no values, a NaN, or more than one dimension.
    """
    sample = _sample(values)
    mean = float(sample.mean())
    if sample.size == 1 or np.ptp(sample) == 0:
        return Interval(mean, mean, mean, int(sample.size))
    result = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, DRAWS_IN_MEMORY // sample.size),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), int(sample.size))


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: int, seed: int, level: float = 0.95) -> PairedDifference:
    """Compare two methods on the same images in the same order.

    Raises ValueError when lengths differ, and as `bootstrap_ci` does.
    """
    first, second = _sample(a), _sample(b)
    if first.shape != second.shape:
        raise ValueError(f"paired values must have equal lengths, got {first.size} and {second.size}")
    difference = first - second
    interval = bootstrap_ci(difference, resamples, seed, level)
    spread = float(difference.std(ddof=1)) if difference.size > 1 else 0.0
    return PairedDifference(
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        p_value=float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0,
        effect=interval.mean / spread if spread > 0 else None,
        n=interval.n,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order; compare them with the family's error rate.

    Raises ValueError for a value outside [0, 1] or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {p_values}")
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return [float(value) for value in adjusted]


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or np.isnan(sample).any():
        raise ValueError(f"expected a vector of numbers without NaN, got shape {sample.shape}")
    return sample
