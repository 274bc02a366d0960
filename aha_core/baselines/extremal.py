"""Extremal masks, in the style of extremal perturbations (Fong, Patrick & Vedaldi, ICCV 2019), on our own grid.

    m_a = argmin  -log P(c | m x + (1 - m) r) - log (1 - P(c | (1 - m) x + m r)) + lambda_t mean (sort(m) - r_a)^2
    map = mean_a m_a

for areas a = .05, .1, .2, .4, .6 of the image (the dual game: what m keeps suffices, what it leaves does not; the masks
of the preservation game alone are small, but on two images and ViT-Tiny the class survived their removal, and SRG was
below that of noise). r_a is the sorted 0/1 mask of the area, and its weight grows in T steps from 1 to 300.
m = sigmoid of a patch grid of values, enlarged bilinearly; Adam at rate .2. A pixel that is kept even at small areas
ranks first. TorchRay, the authors' library, is stale and non-commercial, and enlarges with a smooth maximum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec

AREAS = (0.05, 0.1, 0.2, 0.4, 0.6)
RATE = 0.2
START = 0.9  # of all mask values: nearly the whole image, from which the penalty takes away
PENALTY = (1.0, 300.0)  # of the area, at the first and at the last step


class Extremal(Baseline):
    """Mean of masks that keep as much of the class as their area allows."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        references = self.settings.reference(x)
        return torch.stack([self._mask(*one) for one in zip(x, references, classes, strict=True)])

    def _mask(
        self, image: Float[Tensor, "3 H W"], reference: Float[Tensor, "3 H W"], label: Int[Tensor, ""]
    ) -> Float[Tensor, "1 H W"]:
        areas, side = torch.tensor(AREAS, device=image.device), self.settings.patch_grid
        places = (torch.arange(side * side, device=image.device) + 0.5) / side**2
        wanted = (places > 1 - areas[:, None]).to(image)  # ascending, like sort
        start = float(torch.tensor(START).logit())
        values = torch.full((len(areas), 1, side, side), start, device=image.device, requires_grad=True)
        optimiser = torch.optim.Adam([values], lr=RATE)
        for step in range(self.settings.mask_steps):
            optimiser.zero_grad(set_to_none=True)
            masks = _enlarged(values, image)
            kept = torch.lerp(reference[None], image[None], masks)
            left = torch.lerp(image[None], reference[None], masks)
            logits = torch.cat([self.target(part) for part in torch.cat([kept, left]).split(self.settings.batch_size)])
            growth = step / max(self.settings.mask_steps - 1, 1)
            penalty = PENALTY[0] * (PENALTY[1] / PENALTY[0]) ** growth
            spread = (values.sigmoid().flatten(1).sort(dim=1).values - wanted).square().mean(dim=1)
            (_dual_loss(logits.float(), label) + penalty * spread.sum()).backward()
            optimiser.step()
        return _enlarged(values.detach(), image).mean(dim=0)


def _enlarged(values: Float[Tensor, "A 1 G G"], image: Float[Tensor, "3 H W"]) -> Float[Tensor, "A 1 H W"]:
    return F.interpolate(values.sigmoid(), size=image.shape[-2:], mode="bilinear", align_corners=False)


def _dual_loss(logits: Float[Tensor, "A2 Y"], label: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """-log P of the class in the first half of the rows, -log (1 - P) in the second."""
    log_p = logits.log_softmax(dim=1)
    kept, left = log_p.chunk(2)
    others = torch.arange(logits.shape[1], device=logits.device) != label
    return -(kept[:, label].sum() + left[:, others].logsumexp(dim=1).sum())


SPEC = BaselineSpec(
    "extremal",
    "masks optimised to hold the class at given areas",
    Extremal,
    passes=f"3 x {2 * len(AREAS)} x mask_steps",
)
