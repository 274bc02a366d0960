"""Greedy patch order: a ceiling for ranking methods, with the metric itself as the guide.

    repeat:  take the cell c that maximises  P(y | only S + c) - P(y | x without S + c);   S <- S + c

over a G x G grid, with the class y and the cells S taken so far: the first cell is the most important one. The two
terms are the points of the insertion and the deletion curve that the choice decides. It needs N (N + 1) forward passes
for N = G^2 cells and sees one reference only: under others, and for finer rankings, it can be beaten. The map is
N, N - 1, …, 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec
from aha_core.baselines.patches import patch_maps, patch_probabilities


class Greedy(Baseline):
    """Search for the patch order with the largest symmetric relevance gain."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        references = self.settings.reference(x)
        values = [self._order(*one) for one in zip(x, references, classes, strict=True)]
        return patch_maps(torch.stack(values), x.shape)

    def _order(
        self, image: Float[Tensor, "3 H W"], reference: Float[Tensor, "3 H W"], label: Int[Tensor, ""]
    ) -> Float[Tensor, "N"]:
        cells = self.settings.patch_grid**2
        taken = torch.zeros(cells, dtype=torch.bool)
        values = torch.zeros(cells)
        for place in range(cells):
            left = (~taken).nonzero()[:, 0]
            with_one = taken.repeat(len(left), 1).scatter(1, left[:, None], True)
            scores = patch_probabilities(
                self.target, image, reference, torch.cat([with_one, ~with_one]), label, self.settings.batch_size
            )
            inserted, deleted = scores.unflatten(0, (2, -1))
            best = left[int((inserted - deleted).argmax())]
            taken[best], values[best] = True, cells - place
        return values.to(image)


SPEC = BaselineSpec(
    "greedy", "greedy patch order by the score itself: a ceiling", Greedy, passes="patch_grid^2 (patch_grid^2 + 1)"
)
