"""Cost and fidelity of every relaxation over the number of cells N.

Of each method at N cells and temperature tau: time of a forward and backward pass, peak memory, marginal residual, mean
|soft - hard|, and, where a target is given, the cosine between its gradient and a Monte-Carlo estimate of the hard
objective's (`hard_gradient.py`). What does not fit into memory is a row that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from aha_core.benchmarks.hard_gradient import Agreement, Problem
from aha_core.benchmarks.measure import available_gb, in_fresh_process, peak_mb, seconds
from aha_core.config import RankingConfig
from aha_core.errors import ResourceError
from aha_core.objective import generator
from aha_core.protocols import Relaxation
from aha_core.ranking import RELAXATIONS, HardTopK, make_relaxation, marginal_residual, standardise

CELLS = (49, 196, 784, 3136, 50176)  # grids 7, 14, 28, 56, 224
BUDGETS = 16
BATCH = 8
LARGE = 3136  # from here on one image at a time
SHARE = 0.85  # of the free memory that a measured process may take


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass over `batch` images."""

    seconds: float
    peak_mb: float
    residual: float
    soft_hard: float


def batch_of(cells: int) -> int:
    return BATCH if cells < LARGE else 1


def relaxation_of(config: RankingConfig, method: str, tau: float, cells: int, batch: int, seed: int) -> Relaxation:
    """The method at edge width tau; with noise where it is the method's own."""
    chosen = config.model_copy(update={"method": method, "standardise": True, "noise": method == "gumbel_sinkhorn"})
    return make_relaxation(chosen, tau, cells, [generator(seed, 2, image) for image in range(batch)])


def measure_cost(config: RankingConfig, method: str, tau: float, cells: int, device: str, seed: int) -> Cost:
    """Run in a fresh process: see `in_fresh_process`."""
    batch, where = batch_of(cells), torch.device(device)
    scores = standardise(torch.randn(batch, cells, generator=generator(seed, 1, cells))).to(where)
    budgets = torch.linspace(0, 1, BUDGETS) * cells
    relaxation = relaxation_of(config, method, tau, cells, batch, seed)

    def step() -> Tensor:
        leaf = scores.clone().requires_grad_()
        masks = relaxation.soft_topk_masks(leaf, budgets)
        masks.square().sum().backward()
        return masks.detach()

    time = seconds(step, where)
    kept: list[Tensor] = []
    memory = peak_mb(lambda: kept.append(step()), where)
    hard = HardTopK(range(seed, seed + batch)).soft_topk_masks(scores, budgets)
    difference = float((kept[0] - hard).abs().mean())
    with torch.no_grad():
        return Cost(time, memory, marginal_residual(relaxation, scores, budgets), difference)


def benchmark(
    config: RankingConfig,
    taus: tuple[float, ...],
    device: str,
    threads: int,
    seed: int,
    agreement: Callable[[str, float, int], Agreement | None] = lambda method, tau, cells: None,
    cells: tuple[int, ...] = CELLS,
) -> Iterator[dict[str, object]]:
    """One row per N, tau and method, in that order.

    Args:
        taus: edge widths in standard deviations.
        agreement: (method, tau, N) to the agreement of gradients, or None where it was not estimated.
    """
    for count in cells:
        for tau in taus:
            for method in RELAXATIONS:
                row: dict[str, object] = {
                    "cells": count, "tau": tau, "method": method, "batch": batch_of(count), "budgets": BUDGETS
                }  # fmt: skip
                try:
                    memory = available_gb() * SHARE if device == "cpu" else None
                    arguments = (config, method, tau, count, device, seed)
                    cost = in_fresh_process(measure_cost, *arguments, threads=threads, memory_gb=memory)
                except ResourceError as error:
                    yield row | {"skipped": str(error)}
                    continue
                found = agreement(method, tau, count)
                yield row | asdict(cost) | (asdict(found) if found else {})


def gradient_agreement(
    problems: dict[tuple[float, int], Problem], config: RankingConfig, seed: int
) -> Callable[[str, float, int], Agreement | None]:
    """For `benchmark`: each method's gradient against the estimates, by (tau, N)."""

    def find(method: str, tau: float, cells: int) -> Agreement | None:
        problem = problems.get((tau, cells))
        if problem is None:
            return None
        return problem.agreement(relaxation_of(config, method, tau, cells, len(problem.scores), seed))

    return find
