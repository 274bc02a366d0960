"""Scores of many methods on the same images: rows for storage, curves for figures.

The metric contract is in `aha_core.metrics`; this module only arranges it. For each chunk of images, class and
reference, whatever does not depend on the map is computed once and shared by all methods. A method's result on a chunk
is one `Part`: parts can be computed in any order, by any process, and stored, and `Scores` puts them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import ClassRole, EvaluateConfig, PerturbationConfig
from aha_core.errors import AttributionError, DataError
from aha_core.measures import (
    BY_REFERENCE,
    REFERENCE_FREE,
    Ranked,
    Removal,
    Scene,
    localisation,
    tabulated,
)
from aha_core.metrics import curve_fractions, deletion_insertion, removal_order, tie_breaks
from aha_core.references import evaluation_reference
from aha_core.scoring import Scorer
from aha_core.selection import ImageBatch
from aha_core.summary import OURS, headline

DIGITS = 6  # of stored scores: finer than float32 forward passes repeat
SEED_STREAM = 1_000_003  # keeps the seeds of different evaluation seeds apart


@dataclass(frozen=True)
class Part:
    """One method on one chunk of images for one class role.

    rows: image x reference; free: image, without a reference; localisation: image, where it has a mask;
    curves: reference to [2 b P], deletion first, for the b images without failure; gallery: maps kept for figures;
    failures: image, with the error; cost: what the maps took (see `aha_core.cost`).
    """

    role: str
    method: str
    rows: list[dict[str, Any]]
    free: list[dict[str, Any]]
    localisation: list[dict[str, Any]]
    curves: dict[str, np.ndarray]
    gallery: np.ndarray
    failures: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """Maps of a chunk, zeros where there is none, and the reason for each place without one."""

    maps: Float[Tensor, "B 1 H W"]
    errors: dict[int, str]


def attempt_maps(
    make: Callable[[Tensor, Tensor], Tensor], x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]
) -> Attempt:
    """Run a method; if it raises on the chunk, or gives another shape, run it image by image.

    An image's map is unusable when that fails for the image alone, or when it holds NaN or infinite values. Constant,
    negative and huge maps and any floating type are legal.
    """
    expected = (len(x), 1, *x.shape[-2:])
    try:
        maps = make(x, classes)
        if tuple(maps.shape) != expected:
            raise AttributionError(f"maps of shape {tuple(maps.shape)} instead of {expected}")
    except Exception as error:  # a method may raise anything; an interrupt is no Exception
        if len(x) > 1:
            alone = [attempt_maps(make, x[i : i + 1], classes[i : i + 1]) for i in range(len(x))]
            errors = {place: one.errors[0] for place, one in enumerate(alone) if one.errors}
            return Attempt(torch.cat([one.maps for one in alone]), errors)
        return Attempt(x.new_zeros(expected), {0: f"{type(error).__name__}: {error}".splitlines()[0]})
    maps = maps.detach().to(x.device, torch.promote_types(maps.dtype, torch.float32))
    bad = (~maps.isfinite()).flatten(1).sum(dim=1).tolist()
    size = maps[0].numel()
    errors = {place: f"{count} of {size} values are NaN or infinite" for place, count in enumerate(bad) if count}
    return Attempt(maps.nan_to_num(0.0, 0.0, 0.0) if errors else maps, errors)


class ChunkEvaluator:
    """Scores maps of one chunk of images for one class role; shares everything that methods have in common.

    Raises DataError for images with values that are not in [0, 1].
    """

    def __init__(
        self,
        scorer: Scorer,
        batch: ImageBatch,
        role: ClassRole,
        classes: Int[Tensor, "B"],
        config: EvaluateConfig,
        perturbation: PerturbationConfig,
        seed: int,
    ) -> None:
        _check_images(batch)
        self.batch, self.role, self.config = batch, role, config
        seeds = [seed * SEED_STREAM + index for index in batch.indices]
        self.scene = Scene(scorer, batch.x, classes, batch.labels, seeds, batch.masks, scorer.batch_size, batch.void)
        self.counts, _ = curve_fractions(config.points, batch.x.shape[-2] * batch.x.shape[-1])
        self.shuffles = tie_breaks(seeds, int(self.counts[-1])).to(batch.x.device)
        self.removals = {
            name: Removal(self.scene, evaluation_reference(batch.x, name, perturbation, seeds))
            for name in config.references
        }

    def _facts(self) -> Iterator[dict[str, Any]]:
        """What identifies a row; the probability is the unperturbed image's."""
        probabilities = next(iter(self.removals.values())).ends.image
        for place, index in enumerate(self.batch.indices):
            yield {
                "image": self.batch.names[place],
                "index": index,
                "role": self.role,
                "class": int(self.scene.classes[place]),
                "label": int(self.scene.labels[place]),
                "probability": float(probabilities[place]),
            }

    def score(self, method: str, attempt: Attempt, keep: int = 0, cost: dict[str, float] | None = None) -> Part:
        """Everything about one method's maps; rows of failed images are left out and named in `failures`.

        Args:
            keep: how many of the chunk's first maps go into the gallery.
            cost: handed through.
        """
        ranked = Ranked(attempt.maps, removal_order(attempt.maps, self.scene.seeds, method, self.shuffles))
        facts = [one | {"method": method} for one in self._facts()]
        good = [place for place in range(len(facts)) if place not in attempt.errors]
        rows: list[list[dict[str, Any]]] = []
        kept_curves: dict[str, np.ndarray] = {}
        for name, removal in self.removals.items():
            curves = deletion_insertion(
                self.scene.score_fn, self.batch.x, ranked.orders, self.scene.classes, removal.reference, self.counts,
                self.scene.batch_size, removal.ends,
            )  # fmt: skip
            columns = {"deletion": curves.deletion_auc, "insertion": curves.insertion_auc, "srg": curves.srg}
            for measure in self.config.measures:
                if measure in BY_REFERENCE:
                    columns |= BY_REFERENCE[measure](removal, ranked, curves, self.counts)
            values = tabulated(columns)
            rows.append([facts[place] | {"reference": name} | values[place] for place in good])
            kept_curves[name] = torch.stack([curves.deletion, curves.insertion])[:, good].cpu().numpy()
        free: dict[str, Tensor] = {}
        for measure in self.config.measures:
            if measure in REFERENCE_FREE:
                free |= REFERENCE_FREE[measure](self.scene, ranked)
        shown = [place for place in self.scene.with_object if place in good]
        placed = tabulated(localisation(self.scene, ranked, shown)) if shown else []
        return Part(
            role=self.role,
            method=method,
            rows=[row for own in rows for row in own],
            free=_joined(facts, tabulated(free), good),
            localisation=[facts[place] | values for place, values in zip(shown, placed, strict=True)],
            curves=kept_curves,
            gallery=pictured(attempt.maps[:keep, 0]),
            failures=[facts[place] | {"error": reason} for place, reason in sorted(attempt.errors.items())],
            cost=cost or {},
        )


def pictured(maps: Float[Tensor, "B H W"]) -> np.ndarray:
    """Maps for figures, which show ranks, in half precision: divided by the largest of |A|, so that any unit fits."""
    scale = maps.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    half: np.ndarray = (maps / scale).half().cpu().numpy()
    return half


def _check_images(batch: ImageBatch) -> None:
    low, high = batch.x.flatten(1).aminmax(dim=1)
    for name, least, most in zip(batch.names, low.tolist(), high.tolist(), strict=True):
        if not (least >= 0 and most <= 1):  # also for NaN
            raise DataError(f"image {name}: values from {least:g} to {most:g}; expected [0, 1] before normalisation")


def _joined(facts: list[dict[str, Any]], values: list[dict[str, float]], good: list[int]) -> list[dict[str, Any]]:
    return [facts[place] | values[place] for place in good] if values else []


@dataclass
class Scores:
    """Parts put together, in the order in which they are added.

    curves: (method, role, reference) to stacked [2 n P] arrays; the n images are those of the method's rows, in order.
    """

    fractions: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    free: list[dict[str, Any]] = field(default_factory=list)
    localisation: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[tuple[str, str, str], list[np.ndarray]] = field(default_factory=dict)
    gallery: dict[str, list[np.ndarray]] = field(default_factory=dict)
    cost: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        self.rows += part.rows
        self.free += part.free
        self.localisation += part.localisation
        self.failures += part.failures
        for reference, values in part.curves.items():
            self.curves.setdefault((part.method, part.role, reference), []).append(values)
        self.gallery.setdefault(f"{part.role}/{part.method}", []).append(part.gallery)
        if part.cost:
            self.cost.setdefault(part.method, []).append(part.cost)

    def maps_per_method(self) -> dict[str, int]:
        """How many maps each method was asked for: those with rows and those that failed."""
        asked = {(one["method"], one["role"], one["index"]) for one in (*self.rows, *self.failures)}
        return Counter(method for method, _, _ in asked)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Table name to rows, rounded; empty tables are left out (failures.parquet exists only with failures)."""
        named = {
            "scores": self.rows,
            "reference_free": self.free,
            "localisation": self.localisation,
            "failures": self.failures,
        }
        return {name: pd.DataFrame(rows).round(DIGITS) for name, rows in named.items() if rows}

    def mean_curves(self) -> pd.DataFrame:
        """Mean over images and references of the first class role: one row per method and fraction.

        Of AHA's refinement steps only the first and the last appear.
        """
        role = next(iter(self.curves))[1]
        names = list(dict.fromkeys(key[0] for key in self.curves))
        rows = []
        for method in [name for name in names if not name.startswith(OURS) or name in headline(names)]:
            stacks = [np.concatenate(v, axis=1) for k, v in self.curves.items() if k[0] == method and k[1] == role]
            if not stacks[0].shape[1]:
                continue  # failed on every image
            deletion, insertion = np.mean(stacks, axis=(0, 2))
            rows += [
                {"method": method, "fraction": f, "deletion": d, "insertion": i}
                for f, d, i in zip(self.fractions, deletion, insertion, strict=True)
            ]
        return pd.DataFrame(rows).round(4)
