"""What evaluation stored, read for the report: scores, curves, maps and images of the first class role."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float16, UInt8

from aha_core.config import EvaluationReference, PerturbationConfig, RankingConfig
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import display_names
from aha_core.figures import method_label
from aha_core.report import ReportTable
from aha_core.report.tables import summary_tables
from aha_core.summary import baselines_by_srg, is_baseline, shown_of_ours
from stages.context import Context

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # fractions, deletion, insertion


@dataclass(frozen=True)
class Results:
    """The first class role's results.

    curves: reference to method to curves of each image; rows: all roles' rows of scores; places: of the gallery's
    images in the test split; gallery: method to their maps, None for images that a slow method was not asked for.
    """

    role: str
    summary: dict[str, Any]
    rows: pd.DataFrame
    references: tuple[EvaluationReference, ...]
    curves: dict[str, dict[str, Curve]]
    other_curves: dict[str, dict[str, dict[str, Curve]]]
    places: list[int]
    gallery: dict[str, list[Float[np.ndarray, "H W"] | None]]
    images: list[UInt8[np.ndarray, "H W 3"]]
    titles: list[str]
    names: list[str]
    ranking: RankingConfig
    perturbation: PerturbationConfig

    @property
    def scores(self) -> dict[str, Any]:
        return self.summary["scores"][self.role]

    @property
    def localisation(self) -> dict[str, Any]:
        return self.summary.get("localisation", {})

    @property
    def shown(self) -> list[str]:
        """AHA in one pass, hybrid and refined, then the baselines from best to worst."""
        return shown_of_ours(self.scores) + baselines_by_srg(self.scores)

    @property
    def best_baseline(self) -> str | None:
        return next((method for method in self.shown if is_baseline(method)), None)

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        return summary_tables(self.summary, self.role, self.shown)

    def mean_curves(self, method: str) -> Curve:
        """Of each image, averaged over the references."""
        every = [self.curves[reference][method] for reference in self.references]
        return every[0][0], np.mean([one[1] for one in every], axis=0), np.mean([one[2] for one in every], axis=0)

    def curve_of(self, method: str, reference: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Deletion and insertion curve of one image, None where the method failed on it."""
        rows = self.rows
        own = rows[(rows["role"] == self.role) & (rows["method"] == method) & (rows["reference"] == reference)]
        found = np.flatnonzero(own["index"].to_numpy() == index)
        _, deletion, insertion = self.curves[reference][method]
        return (deletion[found[0]], insertion[found[0]]) if len(found) else None


def load(ctx: Context) -> Results:
    """Read what `evaluate` wrote."""
    paths, config = ctx.paths, ctx.params.evaluate
    role: str = config.classes[0]
    count = ctx.params.report.gallery
    summary = json.loads((paths.metrics / "evaluation.json").read_text())
    rows = pd.read_parquet(paths.evaluation / "scores.parquet")
    with np.load(paths.evaluation / "gallery.npz") as stored:
        known = rows[rows["role"] == role].drop_duplicates("index").set_index("index")
        places = [int(index) for index in stored["places"][:count]]
        shown = [place for place, index in enumerate(places) if index in known.index]  # not where every method failed
        gallery = {name: maps_at(stored[f"{role}/{name}"], shown) for name in summary["scores"][role]}
    every: dict[str, dict[str, dict[str, Curve]]] = {
        one: read_curves(ctx, one, list(summary["scores"][one])) for one in config.classes
    }
    dataset = PreparedImages(paths.data, "test")
    classes = json.loads((paths.target / "target.json").read_text())["class_names"]
    places = [places[place] for place in shown]
    first = known.loc[places]
    labels = [display_names([classes[int(one)]])[0] for one in first["class"]]
    return Results(
        role=role,
        summary=summary,
        rows=rows,
        references=config.references,
        curves=every.pop(role),
        other_curves=every,
        places=places,
        gallery=gallery,
        images=[dataset.image(index).permute(1, 2, 0).numpy() for index in places],
        titles=[f"{label} {chance:.2f}" for label, chance in zip(labels, first["probability"], strict=True)],
        names=labels,
        ranking=ctx.params.ranking,
        perturbation=ctx.params.perturbation,
    )


def maps_at(maps: Float16[np.ndarray, "n H W"], places: list[int]) -> list[Float[np.ndarray, "H W"] | None]:
    """One for each place; None beyond the last map, since slow methods have the first images only."""
    return [maps[place].astype(np.float32) if place < len(maps) else None for place in places]


def read_curves(ctx: Context, role: str, methods: list[str]) -> dict[str, dict[str, Curve]]:
    """Reference to method to curves."""
    with np.load(ctx.paths.evaluation / "curves.npz") as stored:
        return {
            reference: {method: (stored["fractions"], *stored[f"{method}/{role}/{reference}"]) for method in methods}
            for reference in ctx.params.evaluate.references
        }


def in_unit_range(image: UInt8[np.ndarray, "H W 3"]) -> Float[torch.Tensor, "1 3 H W"]:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def pixels_of(x: Float[torch.Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    return (x.permute(1, 2, 0) * 255).round().byte().numpy()


def notes(summary: dict[str, Any]) -> tuple[str, ...]:
    """What a reader of the table must know: methods left out, failed images, games not played, precision."""
    absent = summary["not_applicable"].items()
    lines = [f"{method_label(name)} is not applicable: it {reason}." for name, reason in absent]
    lines += [
        f"{method_label(name)} gave no usable map for {one['failed']} of {one['of']} images; its row averages the "
        "others."
        for name, one in summary.get("failures", {}).items()
    ]
    skipped = dict.fromkeys(one["skipped"] for one in summary.get("checks", {}).values() if "skipped" in one)
    lines += [f"Grid pointing was not played on {reason}." for reason in skipped]
    if "precision" in summary:
        lines.append(precision_note(summary["precision"]))
    return tuple(lines)


def precision_note(facts: dict[str, Any]) -> str:
    """What another number format than float32 changes."""
    words = (
        "Scored in {type}. On the first images, the largest difference of an image's probabilities to float32 is "
        "{mean_error:.2g} on average and at most {max_error:.2g}"
    )
    if "srg_shift" in facts:
        words += (
            "; SRG of one pass differs by {srg_mean_error:.2g} on average, {srg_max_error:.2g} at most, its mean by "
            "{srg_shift:+.2g}"
        )
    return words.format(**facts) + "."
