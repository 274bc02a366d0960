"""Whether maps find a marker that a classifier has learnt as a shortcut (`aha_core.shortcut`), with clean controls.

    energy        sum_marker relu(map) / sum relu(map)
    rank          share of the other cells that are more important than the marker's mean cell (ties count half)
    found         rank < 0.1: the marker is in the top decile
    AUROC         P(rank of a marked image < rank of its clean control), ties count half (Mann & Whitney, 1947)
    drop          f_c(x with marker) - mean over references r of f_c(x with r in the marker's place)
    top_drop      the same with r in place of the map's most important pixels, as many as the marker has

The control of a marked image is the same image without marker, looked at in the same place: what is found there is a
false alarm. Two maps of a control are asked: the marked class's, of which a control of another class has next to no
probability to lose (`false_alarms`), and the map of the class that the control is given, which is what somebody who
explains predictions sees (`predicted_alarms`). `drop` is what the marker is worth to somebody who has no clean image; a
map that ranks the marker first has top_drop = drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from aha_core.errors import AttributionError
from aha_core.metrics import bootstrap_ci, energy_in_mask
from aha_core.shortcut import Marker
from aha_core.targets import Target

CELLS = 28  # a side, of the ranks
TOP = 0.1  # share of the cells: the marker is found in the top decile

MapsOverSteps = Callable[[Tensor, Tensor], Tensor]  # images, classes -> (T1, B, 1, H, W)
Reference = Callable[[Tensor], Tensor]


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
    """Of B marked images and their controls, after 0 .. T refinement steps.

    predicted_rank: of the place in the map of the class that the control is given, which may be the marked one;
    reliance: f_c gained by the marker; fooled: whether the marked image is given the marked class.
    """

    energy: Float[Tensor, "T1 B"]
    rank: Float[Tensor, "T1 B"]
    control_energy: Float[Tensor, "T1 B"]
    control_rank: Float[Tensor, "T1 B"]
    predicted_rank: Float[Tensor, "T1 B"]
    top_drop: Float[Tensor, "T1 B"]
    drop: Float[Tensor, "B"]
    reliance: Float[Tensor, "B"]
    fooled: Bool[Tensor, "B"]

    def rows(self, resamples: int, seed: int) -> list[dict[str, float]]:
        """One row for each T: means over images, found markers, false alarms, 95 % bootstrap intervals, AUROC.

        Raises ValueError when there is no image.
        """
        rows = []
        for step in range(len(self.rank)):
            row: dict[str, float] = {"steps": step, "images": len(self.drop)}
            for name, values in (
                ("energy", self.energy[step]),
                ("rank", self.rank[step]),
                ("found", self.rank[step] < TOP),
                ("false_alarms", self.control_rank[step] < TOP),
                ("predicted_alarms", self.predicted_rank[step] < TOP),
            ):
                interval = bootstrap_ci(values.double().numpy(), resamples, seed)
                row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {
                "auroc": auroc(-self.rank[step], -self.control_rank[step]),
                "control_energy": float(self.control_energy[step].mean()),
                "control_rank": float(self.control_rank[step].mean()),
                "top_drop": float(self.top_drop[step].mean()),
                "drop": float(self.drop.mean()),
                "reliance": float(self.reliance.mean()),
                "fooled": float(self.fooled.double().mean()),
            }
            rows.append(row)
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name: what a file keeps of them, and `Findings(**tensors)` reads."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def of(self, chosen: Bool[Tensor, "B"]) -> Findings:
        """Findings of the chosen images alone."""
        return Findings(**{name: values[..., chosen] for name, values in self.tensors().items()})

    @classmethod
    def join(cls, parts: Sequence[Findings]) -> Findings:
        """Findings of several batches."""
        every = [part.tensors() for part in parts]
        return cls(**{name: torch.cat([part[name] for part in every], dim=-1) for name in every[0]})


def find_marker(
    target: Target, maps: MapsOverSteps, x: Float[Tensor, "B 3 S S"], indices: list[int], marker: Marker,
    marked_class: int, grid: int, references: Sequence[Reference],
) -> Findings:  # fmt: skip
    """Maps of the marked class on images with marker, of that and of the predicted class on their clean controls.

    Args:
        target: the classifier that is explained.
        maps: (images, classes) to their maps after 0 .. T steps; a method without steps gives T1 = 1.
        x: clean images in [0, 1]; indices: their places in the data, which place the marker.
        grid: side of the grid of cells for the ranks.
        references: images to what removed pixels show.
    """
    classes = torch.full((len(x),), marked_class, device=x.device)
    masks = marker.masks(indices, x.shape[3]).to(x.device)
    marked = marker.stamp(x, indices)
    energy, rank, tops = [], [], []
    for images in (marked, x):
        made = maps(images, classes)
        energy.append(torch.stack([energy_in_mask(one, masks).cpu() for one in made]))
        rank.append(torch.stack([cell_rank(one, masks, grid).cpu() for one in made]))
        tops.append([most_important(one, marker.side**2) for one in made])
    with torch.no_grad():
        probabilities, clean = target.probabilities(marked), target.probabilities(x)
    with_marker, without, given = probabilities[:, marked_class], clean[:, marked_class], clean.argmax(dim=1)
    predicted_rank, other = rank[1].clone(), given != marked_class
    if bool(other.any()):
        made = maps(x[other], given[other])
        predicted_rank[:, other.cpu()] = torch.stack([cell_rank(one, masks[other], grid).cpu() for one in made])
    with torch.no_grad():

        def lost(where: Bool[Tensor, "B 1 S S"]) -> Float[Tensor, "B"]:
            left = [target.probabilities(torch.where(where, make(marked), marked)) for make in references]
            return (with_marker - torch.stack(left)[:, :, marked_class].mean(dim=0)).cpu()

        return Findings(
            energy[0], rank[0], energy[1], rank[1], predicted_rank, torch.stack([lost(top) for top in tops[0]]),
            lost(masks), (with_marker - without).cpu(), (probabilities.argmax(dim=1) == marked_class).cpu(),
        )  # fmt: skip


def most_important(maps: Float[Tensor, "B 1 H W"], count: int) -> Bool[Tensor, "B 1 H W"]:
    """The `count` largest values of each map; of equal ones the first."""
    flat = maps.detach().flatten(1)
    places = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, places, True).view_as(maps)
