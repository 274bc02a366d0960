"""Extremal masks, in the style of extremal perturbations (Fong, Patrick & Vedaldi, ICCV 2019), on our own grid.

    m_a = argmin  -log P(c | m x + (1 - m) r) + lambda_t mean (sort(m) - r_a)^2,    map = mean_a m_a

for areas a = .05, .1, .2, .4, .6: each mask m in [0, 1] keeps the share a of the image, r_a is the sorted 0/1 mask of
that area, and the penalty grows in T steps from .3 to 30. m = sigmoid of a 14 x 14 grid of values, enlarged bilinearly
(the paper enlarges with a smooth maximum and maximises the logit); Adam at rate .2. A pixel that is kept even at small
areas ranks first. TorchRay, the authors' library, is stale and non-commercial.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec

AREAS = (0.05, 0.1, 0.2, 0.4, 0.6)
GRID, RATE = 14, 0.2
PENALTY = (0.3, 30.0)  # of the area, at the first and at the last step


class Extremal(Baseline):
    """Mean of masks that keep as much of the class as their area allows."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        references = self.settings.reference(x)
        return torch.stack([self._mask(*one) for one in zip(x, references, classes, strict=True)])

    def _mask(
        self, image: Float[Tensor, "3 H W"], reference: Float[Tensor, "3 H W"], label: Int[Tensor, ""]
    ) -> Float[Tensor, "1 H W"]:
        areas = torch.tensor(AREAS, device=image.device)
        places = (torch.arange(GRID * GRID, device=image.device) + 0.5) / GRID**2
        wanted = (places > 1 - areas[:, None]).to(image)  # ascending, like sort
        start = torch.logit(areas)[:, None, None, None].expand(-1, 1, GRID, GRID)
        values = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([values], lr=RATE)
        labels = label.expand(len(areas))
        for step in range(self.settings.mask_steps):
            optimiser.zero_grad(set_to_none=True)
            masks = F.interpolate(values.sigmoid(), size=image.shape[-2:], mode="bilinear", align_corners=False)
            masked = torch.lerp(reference[None], image[None], masks)
            loss = torch.zeros((), device=image.device)
            for part, own in zip(
                masked.split(self.settings.batch_size), labels.split(self.settings.batch_size), strict=True
            ):
                loss = loss + F.cross_entropy(self.target(part).float(), own, reduction="sum")
            growth = step / max(self.settings.mask_steps - 1, 1)
            penalty = PENALTY[0] * (PENALTY[1] / PENALTY[0]) ** growth
            spread = (values.sigmoid().flatten(1).sort(dim=1).values - wanted).square().mean(dim=1)
            (loss + penalty * spread.sum()).backward()
            optimiser.step()
        masks = F.interpolate(values.detach().sigmoid(), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return masks.mean(dim=0)


SPEC = BaselineSpec(
    "extremal", "masks optimised to keep the class at given areas", Extremal, passes=f"3 x {len(AREAS)} x mask_steps"
)
