"""How many passes of the target a map takes, and the best map for a number of passes.

    passes = 1 + 3 [H] + T 6 S R + [D] + ceil(T / P) 2 S R

A backward pass counts as two, so a masked pass with its gradient counts 3. The 1 is the one-pass map. H: a hybrid map,
with which refinement begins where `refine.hybrid` says so. A step has 2 S R masked passes with gradients: S fractions
of R references, deletion and insertion. D: a refined decoder reads the features once more. The last term measures,
without gradients, whether an image stops, with patience 0 < P < T; one that stops takes less.
"""

from __future__ import annotations

from bisect import bisect_right

from aha_core.config import RefineConfig
from aha_core.errors import AttributionError


def counted(forward: float, gradients: float) -> float:
    """Passes of so many forward and backward ones: a backward pass costs about two forward ones."""
    return forward + 2 * gradients


def passes_of(config: RefineConfig, steps: int, hybrid: bool = False) -> int:
    """Passes of the target for one map of an image that does not stop early.

    Args:
        steps: T.
        hybrid: the hybrid map is asked for.
    """
    masked = 2 * config.fractions * len(config.references)
    start = 3 * (hybrid or (config.hybrid and steps > 0))
    decoder = config.change == "decoder" and steps > 0
    checks = -(-steps // config.patience) if 0 < config.patience < steps else 0
    return 1 + start + 3 * masked * steps + decoder + masked * checks


def within(config: RefineConfig, passes: int) -> tuple[int, bool]:
    """(steps, hybrid) of the best map for at most so many passes of the target, as `passes_of` counts.

    Raises AttributionError for fewer than one pass.
    """
    if passes < 1:
        raise AttributionError(f"passes = {passes}: a map takes 1 pass of the classifier or more")
    steps = bisect_right(range(1, passes + 1), passes, key=lambda count: passes_of(config, count))
    return steps, steps == 0 and passes_of(config, 0, hybrid=True) <= passes
