"""RISE (Petsiuk, Das & Saenko, BMVC 2018): mean of random masks weighted by the class probability.

    map = 1 / (p N) sum_n P(c | x * m_n) m_n

m_n: 7x7 random cells, kept with probability p = 0.5, enlarged bilinearly to 8x8 cells and cropped at a random shift.
Removed pixels are black in pixel space. All images share the masks of one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec, class_scores

CELLS = 7
KEEP = 0.5


class Rise(Baseline):
    """Randomised input sampling; no gradients."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        return self.growing(x, classes, (self.settings.rise_masks,))[0]

    @torch.no_grad()
    def growing(
        self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"], counts: Sequence[int]
    ) -> Float[Tensor, "K B 1 H W"]:
        """Maps of the first N masks for each N of the rising `counts`, for the passes of the last: one sum."""
        total = x.new_zeros(len(x), 1, *x.shape[-2:])
        generator = torch.Generator().manual_seed(self.settings.seed)
        maps = []
        for before, count in pairwise((0, *counts)):
            for size in _batch_counts(count - before, self.settings.batch_size):
                masks = random_masks(size, x.shape[-2:], generator).to(x)
                for i, image in enumerate(x):
                    probabilities = self.target.probabilities(image * masks)
                    weights = class_scores(probabilities, classes[i].expand(size)).float()
                    total[i] += (weights[:, None, None, None] * masks).sum(dim=0)  # no matmul: exact under autocast
            maps.append(total / (KEEP * count))
        return torch.stack(maps)


def random_masks(count: int, size: torch.Size, generator: torch.Generator) -> Float[Tensor, "N 1 H W"]:
    """Smooth random masks in [0, 1]; the same ones however they are cut into batches."""
    height, width = size
    cell = math.ceil(height / CELLS), math.ceil(width / CELLS)
    masks = []
    for _ in range(count):
        cells = (torch.rand((1, 1, CELLS, CELLS), generator=generator) < KEEP).float()
        top = int(torch.randint(cell[0], (), generator=generator))
        left = int(torch.randint(cell[1], (), generator=generator))
        enlarged = ((CELLS + 1) * cell[0], (CELLS + 1) * cell[1])
        mask = F.interpolate(cells, size=enlarged, mode="bilinear", align_corners=False)
        masks.append(mask[..., top : top + height, left : left + width])
    return torch.cat(masks)


def _batch_counts(total: int, batch_size: int) -> list[int]:
    return [min(batch_size, total - start) for start in range(0, total, batch_size)]


SPEC = BaselineSpec("rise", "random masks weighted by the class probability", Rise, passes="rise_masks")
