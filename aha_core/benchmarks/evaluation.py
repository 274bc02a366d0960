"""How fast evaluation runs, against the target alone: what `aha bench evaluation` measures.

    efficiency = seconds of M plain forward passes / seconds of the M forward passes of deletion + insertion

with the same images, batch size and precision, measured in turns so that a busy machine slows both alike. End points
are computed inside the measured part, as a single method would; with several methods they are shared. Floating-point
work of ranking and masking is what is left of 1.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.benchmarks.measure import timed
from aha_core.metrics import curve_fractions, deletion_insertion, removal_order
from aha_core.metrics.curves import ScoreFunction
from aha_core.scoring import Scorer


@dataclass(frozen=True)
class EvaluationSpeed:
    """Medians over rounds.

    plain, evaluation: target passes per second; efficiency: the median of the rounds' ratios; passes: per round.
    """

    plain: float
    evaluation: float
    efficiency: float
    passes: int


def evaluation_speed(
    scorer: Scorer,
    images: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B 1 H W"],
    classes: Int[Tensor, "B"],
    reference: Float[Tensor, "#B #C #H #W"],
    points: int,
    rounds: int,
) -> EvaluationSpeed:
    """Throughput of `deletion_insertion` and of plain forward passes on the same number of images.

    Args:
        scorer: gives both measurements their number format and images per pass.
        maps: any maps of the images; only their order counts.
        points: of a curve, both ends included.
        rounds: how often both are measured, after one round that is not counted.
    """
    counts, _ = curve_fractions(points, images.shape[-2] * images.shape[-1])
    passes = len(images) * 2 * (points - 1)  # 2 (points - 2) masked images and two end points each
    batch = images.repeat(-(-scorer.batch_size // len(images)), 1, 1, 1)[: scorer.batch_size]
    plain, evaluated = [], []
    for _ in range(rounds + 1):
        plain.append(timed(lambda: _forward(scorer, batch, passes), images.device)[1])
        evaluated.append(
            timed(
                lambda: deletion_insertion(
                    scorer,
                    images,
                    removal_order(maps, range(len(maps))),
                    classes,
                    reference,
                    counts,
                    scorer.batch_size,
                ),
                images.device,
            )[1]
        )
    ratios = [one / other for one, other in zip(plain[1:], evaluated[1:], strict=True)]
    return EvaluationSpeed(
        plain=passes / statistics.median(plain[1:]),
        evaluation=passes / statistics.median(evaluated[1:]),
        efficiency=statistics.median(ratios),
        passes=passes,
    )


def _forward(score_fn: ScoreFunction, batch: Tensor, passes: int) -> None:
    with torch.no_grad():
        for start in range(0, passes, len(batch)):
            score_fn(batch[: passes - start])
