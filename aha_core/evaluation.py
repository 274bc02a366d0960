"""Scores of many methods on the same images: rows for storage, curves for figures.

The metric contract is in `aha_core.metrics`; this module only arranges it: for each chunk of images, class and
reference, the end points are computed once and shared by all methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import ClassRole, EvaluationReference, PerturbationConfig
from aha_core.metrics import (
    area_share,
    curve_fractions,
    deletion_insertion,
    endpoint_scores,
    energy_in_mask,
    pointing_hit,
    rank_accuracy,
    removal_order,
)
from aha_core.references import evaluation_reference
from aha_core.selection import ImageBatch
from aha_core.summary import OURS, headline
from aha_core.targets import Target

DIGITS = 6  # of stored scores: finer than float32 forward passes repeat


@dataclass
class Scores:
    """Rows and curves collected over chunks.

    rows: one per image x method x class role x reference; localisation: one per image x method x class role;
    curves: (method, role, reference) to stacked [2 B P] arrays, deletion first.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    localisation: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[tuple[str, str, str], list[np.ndarray]] = field(default_factory=dict)
    fractions: np.ndarray | None = None

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).round(DIGITS)

    def localisation_table(self) -> pd.DataFrame:
        return pd.DataFrame(self.localisation).round(DIGITS)

    def mean_curves(self) -> pd.DataFrame:
        """Mean over images and references of the first class role: one row per method and fraction.

        Of AHA's refinement steps only the first and the last appear.
        """
        assert self.fractions is not None
        role = next(iter(self.curves))[1]
        names = list(dict.fromkeys(key[0] for key in self.curves))
        rows = []
        for method in [name for name in names if not name.startswith(OURS) or name in headline(names)]:
            stacks = [np.concatenate(v, axis=1) for k, v in self.curves.items() if k[0] == method and k[1] == role]
            deletion, insertion = np.mean(stacks, axis=(0, 2))
            rows += [
                {"method": method, "fraction": f, "deletion": d, "insertion": i}
                for f, d, i in zip(self.fractions, deletion, insertion, strict=True)
            ]
        return pd.DataFrame(rows).round(4)


class ChunkEvaluator:
    """Scores maps of one chunk of images for one class role; shares references and end points between methods."""

    def __init__(
        self,
        scores: Scores,
        target: Target,
        batch: ImageBatch,
        role: ClassRole,
        classes: Int[Tensor, "B"],
        references: tuple[EvaluationReference, ...],
        perturbation: PerturbationConfig,
        points: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.scores, self.target, self.batch, self.role, self.classes = scores, target, batch, role, classes
        self.batch_size = batch_size
        self.seeds = [seed * 1_000_003 + index for index in batch.indices]
        self.counts, fractions = curve_fractions(points, batch.x.shape[-2] * batch.x.shape[-1])
        scores.fractions = fractions.numpy()
        self.references = {name: evaluation_reference(batch.x, name, perturbation, self.seeds) for name in references}
        self.ends = {
            name: endpoint_scores(target.probabilities, batch.x, classes, reference, batch_size)
            for name, reference in self.references.items()
        }
        self.facts = list(self._image_facts())

    def _image_facts(self) -> Iterator[dict[str, Any]]:
        image_scores = next(iter(self.ends.values())).image
        for place, index in enumerate(self.batch.indices):
            yield {
                "image": self.batch.names[place],
                "index": index,
                "role": self.role,
                "class": int(self.classes[place]),
                "label": int(self.batch.labels[place]),
                "probability": float(image_scores[place]),
            }

    def score(self, method: str, maps: Float[Tensor, "B 1 H W"]) -> None:
        """Add the rows and curves of one method's maps. Raises AttributionError for NaN or a wrong shape."""
        orders = removal_order(maps, self.seeds, method)
        for name, reference in self.references.items():
            curves = deletion_insertion(
                self.target.probabilities, self.batch.x, orders, self.classes, reference, self.counts,
                self.batch_size, self.ends[name],
            )  # fmt: skip
            values = zip(self.facts, curves.deletion_auc.tolist(), curves.insertion_auc.tolist(), strict=True)
            self.scores.rows += [
                facts | {"method": method, "reference": name, "deletion": d, "insertion": i, "srg": i - d}
                for facts, d, i in values
            ]
            key = (method, self.role, name)
            stacked = torch.stack([curves.deletion, curves.insertion]).cpu().numpy()
            self.scores.curves.setdefault(key, []).append(stacked)
        if self.batch.masks is not None:
            self._localise(method, maps, self.batch.masks)

    def _localise(self, method: str, maps: Tensor, masks: Tensor) -> None:
        columns = {
            "pointing": pointing_hit(maps, masks, self.seeds).float(),
            "energy": energy_in_mask(maps, masks),
            "rank_accuracy": rank_accuracy(maps, masks, self.seeds),
            "area": area_share(masks),
        }
        self.scores.localisation += [
            facts | {"method": method} | {name: float(values[place]) for name, values in columns.items()}
            for place, facts in enumerate(self.facts)
        ]
