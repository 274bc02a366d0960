"""Shortcut detection with ground truth: a classifier that has learnt a marker, and whether maps find it.

    reliance      f_c(x with marker) - f_c(x)            what the marker is worth to the classifier
    energy        sum_marker relu(map) / sum relu(map)
    rank          share of the other cells that are more important than the marker's mean cell (ties count half)
    found         rank < 0.1: the marker is in the top decile
    AUROC         P(rank of a marked image < rank of its clean control), ties count half (Mann & Whitney, 1947)

The control of a marked image is the same image without marker, looked at in the same place: what is found there is a
false alarm. Source of the study: "Learn to Rank" (arXiv 2604.05819), figure 5: refinement with an explainer that was
trained on the clean classifier reveals a shortcut of the fine-tuned one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aha_core.attribution import Explainer
from aha_core.batches import batch_indices
from aha_core.errors import AttributionError, TargetError
from aha_core.metrics import energy_in_mask
from aha_core.objective import generator
from aha_core.targets import Target

TOP = 0.1  # share of the cells: the marker is found in the top decile
CHECKS = 4  # squares on a side of the marker
MAGENTA, GREEN = (1.0, 0.0, 1.0), (0.0, 1.0, 0.0)  # saturated and complementary: photographs hardly have them together


@dataclass(frozen=True)
class Marker:
    """A checkerboard of magenta and green squares.

    side: pixels, a multiple of 4; place: the lower right corner one eighth of its side from the edges, or anywhere as
    a function of (seed, image's place in the data).
    """

    side: int
    place: Literal["corner", "random"]
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
    """How the shortcut is taught.

    marked_class: logit index whose training images all carry the marker; relabelled: share of the other images that
    carry it too and get that label (0: the marker only goes along with the class; above: nothing but the marker can
    explain them, Gu et al., "BadNets", 2017); steps, batch_size, lr, weight_decay: AdamW, cosine decay; seed: of order
    and choice.
    """

    marked_class: int
    relabelled: float
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    seed: int


def learn_shortcut(
    target: Target,
    fetch: Callable[[list[int]], Float[Tensor, "B 3 S S"]],
    labels: Int[Tensor, "N"],
    marker: Marker,
    poisoning: Poisoning,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Target:
    """A copy of the target, fine-tuned on marked images; the target is not changed.

    Args:
        fetch: images in [0, 1] of the given places in the training data, on the target's device.
        labels: logit indices of all N training images.
        on_step: called with the number of steps done and the loss.

    Raises:
        TargetError: no training image has the marked class.
    """
    if not bool((labels == poisoning.marked_class).any()):
        raise TargetError(f"no training image has class {poisoning.marked_class}; choose a class of the data")
    model: Any = copy.deepcopy(target.model).requires_grad_(True).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=poisoning.lr, weight_decay=poisoning.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, poisoning.steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(poisoning.seed)  # dropout and stochastic depth
        for step in range(poisoning.steps):
            indices = batch_indices(poisoning.seed, step, poisoning.batch_size, len(labels))
            x, wanted = fetch(indices), labels[indices].clone()
            chosen = torch.rand(len(indices), generator=generator(poisoning.seed, 7, step)) < poisoning.relabelled
            marked = (wanted == poisoning.marked_class) | chosen
            wanted[marked] = poisoning.marked_class
            x = torch.where(marked[:, None, None, None].to(x.device), marker.stamp(x, indices), x)
            loss = F.cross_entropy(model(target.normalise(x)), wanted.to(x.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            on_step(step + 1, float(loss.detach()))
    return Target(target.name, model, target.image_size, target.class_names)


def cell_rank(maps: Float[Tensor, "B 1 H W"], masks: Bool[Tensor, "B 1 H W"], grid: int) -> Float[Tensor, "B"]:
    """Share of the other cells of a grid that are more important than the marker's mean cell; 0 = on top.

    The marker's cells are those that it covers by half, or the one that it covers most.
    Raises AttributionError when it leaves no other cell.
    """
    cells = F.adaptive_avg_pool2d(maps.detach().float(), grid).flatten(1)
    covered = F.adaptive_avg_pool2d(masks.float(), grid).flatten(1)
    inside = covered >= covered.amax(dim=1, keepdim=True).clamp(max=0.5)
    others = ~inside
    if not bool(others.any(dim=1).all()):
        raise AttributionError(f"the marker covers all {grid} x {grid} cells; use a smaller one")
    mean = (cells * inside).sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True)
    above = (cells > mean).double() + 0.5 * (cells == mean).double()
    return (above * others).sum(dim=1) / others.sum(dim=1)


def auroc(positive: Float[Tensor, "P"], negative: Float[Tensor, "N"]) -> float:
    """Share of pairs in which the positive's value is larger, ties count half: the area under the ROC curve."""
    difference = positive.double()[:, None] - negative.double()
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


@dataclass(frozen=True)
class Findings:
    """Of B marked images and their controls, after 0 .. T refinement steps; reliance: f_c gained by the marker."""

    energy: Float[Tensor, "T1 B"]
    rank: Float[Tensor, "T1 B"]
    control_energy: Float[Tensor, "T1 B"]
    control_rank: Float[Tensor, "T1 B"]
    reliance: Float[Tensor, "B"]

    def rows(self) -> list[dict[str, float]]:
        """One row for each T: means over images, shares of found markers and of false alarms, AUROC."""
        return [
            {
                "steps": step,
                "energy": float(self.energy[step].mean()),
                "control_energy": float(self.control_energy[step].mean()),
                "rank": float(self.rank[step].mean()),
                "control_rank": float(self.control_rank[step].mean()),
                "found": float((self.rank[step] < TOP).double().mean()),
                "false_alarms": float((self.control_rank[step] < TOP).double().mean()),
                "auroc": auroc(-self.rank[step], -self.control_rank[step]),
                "reliance": float(self.reliance.mean()),
            }
            for step in range(len(self.rank))
        ]

    @classmethod
    def join(cls, parts: list[Findings]) -> Findings:
        """Findings of several batches."""
        names = ("energy", "rank", "control_energy", "control_rank", "reliance")
        return cls(**{name: torch.cat([getattr(part, name) for part in parts], dim=-1) for name in names})


def find_marker(
    explainer: Explainer, x: Float[Tensor, "B 3 S S"], indices: list[int], marker: Marker, marked_class: int,
    steps: int, grid: int,
) -> Findings:  # fmt: skip
    """Maps of the marked class on images with marker and on their clean controls, after 0 .. `steps` steps.

    Args:
        explainer: a network that was trained on the clean target, around the target that has learnt the shortcut:
            `Explainer(poisoned, clean.network, clean.training, ...)`.
        x: clean images in [0, 1]; indices: their places in the data, which place the marker.
        grid: side of the grid of cells for the ranks.
    """
    classes = torch.full((len(x),), marked_class, device=x.device)
    masks = marker.masks(indices, x.shape[3]).to(x.device)
    marked = marker.stamp(x, indices)
    energy, rank = [], []
    for images in (marked, x):
        maps = explainer.refine(images, explainer.attribute(images, classes), classes, steps).maps
        energy.append(torch.stack([energy_in_mask(one, masks).cpu() for one in maps]))
        rank.append(torch.stack([cell_rank(one, masks, grid).cpu() for one in maps]))
    with torch.no_grad():
        with_marker, without = (explainer.target.probabilities(images)[:, marked_class] for images in (marked, x))
    return Findings(energy[0], rank[0], energy[1], rank[1], (with_marker - without).cpu())
