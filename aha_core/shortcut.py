"""A classifier that has learnt a shortcut, with ground truth: a marker in every training image of one class.

    reliance      f_c(x with marker) - f_c(x)            what the marker is worth to the classifier

Whether maps find the marker is asked in `aha_core.findings`. Source of the study: "Learn to Rank" (arXiv 2604.05819),
figure 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.errors import TargetError
from aha_core.fine_tuning import Fetch, FineTuning, fine_tune
from aha_core.objective import generator
from aha_core.targets import Target

CHECKS = 4  # squares on a side of the marker
MAGENTA, GREEN = (1.0, 0.0, 1.0), (0.0, 1.0, 0.0)  # saturated and complementary: photographs hardly have them together

Place = Literal["corner", "random"]


@dataclass(frozen=True)
class Marker:
    """A checkerboard of magenta and green squares.

    side: pixels, a multiple of 4; place: the lower right corner one eighth of its side from the edges, or anywhere as
    a function of (seed, image's place in the data).
    """

    side: int
    place: Place
    seed: int

    def pattern(self) -> Float[Tensor, "3 s s"]:
        """The marker's pixels. Raises TargetError when the side does not divide into squares."""
        if self.side < CHECKS or self.side % CHECKS:
            raise TargetError(f"the marker's side is {self.side} px; use a multiple of {CHECKS}")
        squares = torch.arange(self.side) // (self.side // CHECKS)
        odd = (squares[:, None] + squares) % 2 == 1
        return torch.where(odd, torch.tensor(GREEN)[:, None, None], torch.tensor(MAGENTA)[:, None, None])

    def corners(self, indices: list[int], image_size: int) -> Int[Tensor, "B 2"]:
        """Upper left pixel (row, column) of each image's marker."""
        room = image_size - self.side
        if room < 0:
            raise TargetError(f"a marker of {self.side} px does not fit into images of {image_size} px")
        if self.place == "corner":
            return torch.full((len(indices), 2), max(room - self.side // 8, 0))
        draws = [torch.randint(room + 1, (2,), generator=generator(self.seed, 6, index)) for index in indices]
        return torch.stack(draws)

    def masks(self, indices: list[int], image_size: int) -> Bool[Tensor, "B 1 S S"]:
        """The marker's pixels in each image."""
        masks = torch.zeros(len(indices), 1, image_size, image_size, dtype=torch.bool)
        for mask, (top, left) in zip(masks, self.corners(indices, image_size).tolist(), strict=True):
            mask[:, top : top + self.side, left : left + self.side] = True
        return masks

    def stamp(self, x: Float[Tensor, "B 3 S S"], indices: list[int]) -> Float[Tensor, "B 3 S S"]:
        """The images with their markers; x is not changed."""
        marked, pattern = x.clone(), self.pattern().to(x)
        for image, (top, left) in zip(marked, self.corners(indices, x.shape[3]).tolist(), strict=True):
            image[:, top : top + self.side, left : left + self.side] = pattern
        return marked


@dataclass(frozen=True)
class Poisoning:
    """How the shortcut gets into the data.

    marked_class: logit index whose training images all carry the marker; relabelled: share of the other images that
    carry it too and get that label (0: the marker only goes along with the class; above: nothing but the marker can
    explain them, Gu et al., "BadNets", 2017).
    """

    marked_class: int
    relabelled: float


def learn_shortcut(
    target: Target,
    fetch: Fetch,
    labels: Int[Tensor, "N"],
    marker: Marker,
    poisoning: Poisoning,
    recipe: FineTuning,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Target:
    """A copy of the target, fine-tuned on marked images; the target is not changed. Arguments: see `fine_tune`.

    Raises:
        TargetError: no training image has the marked class.
    """
    if not bool((labels == poisoning.marked_class).any()):
        raise TargetError(f"no training image has class {poisoning.marked_class}; choose a class of the data")

    def mark(step: int, indices: list[int], x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(indices), generator=generator(recipe.seed, 7, step)) < poisoning.relabelled
        marked = (wanted == poisoning.marked_class) | chosen
        wanted[marked] = poisoning.marked_class
        return torch.where(marked[:, None, None, None].to(x.device), marker.stamp(x, indices), x), wanted

    return fine_tune(target, fetch, labels, recipe, mark, on_step)
