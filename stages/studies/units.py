"""`aha study units`: how much of a score is the map's grain, and how much what it says?

    pixels      the map as it is, which is the metric contract
    patches     the same map, ranked by whole patches of the target (`rank_cells`); inside a patch by pixel
    shifted     the same with cells of that size half a patch aside, which coincide with no patch: the control
    scattered   the same map with neighbouring pixels drawn apart (`scatter`): the grain of a noisy map

A vision transformer reads an image in patches, and a patch that is half removed looks like none in a photograph.
Methods whose maps are blocks (occlusion, LIME, Kernel SHAP) rank patches already, and those of single gradients are
scattered already; with the same unit for all, methods are compared instead of units. Each map is made once and scored
four times, as `aha evaluate` scores: predicted class, mean of `evaluate.references`, number format of
`evaluate.precision`; POS and NEG with the label.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.table import Table
from timm.layers import to_2tuple
from torch import Tensor

from aha_core.data.dataset import PreparedImages
from aha_core.errors import ConfigError
from aha_core.figures import method_label, to_png, units_figure
from aha_core.files import atomic_json
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.order import rank_cells, scatter
from aha_core.summary import HYBRID, OURS
from aha_core.targets import Target
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.images import chunk_starts, first_images
from stages.studies.common import SCORES, Cache, Chunk, baselines, cache, clean_explainer, scored_chunks

PIXELS, PATCHES, SHIFTED, SCATTERED = UNITS = "pixels", "patches", "shifted", "scattered"
STRENGTH = 0.4  # of `scatter`: neighbours lie up to 30 % of the image apart
ACCURACY = ("pos", "neg")
SRG = SCORES.index("srg")
METHODS = ("chefer", "legrad", "smoothgrad", "occlusion", "kernel_shap", "lime")

Maps = Callable[[Tensor, Tensor], Tensor]


def run(
    ctx: Context, out: Path, images: int = 64, steps: int = 3, explainer_folder: Path | None = None,
    patch: int | None = None, methods: tuple[str, ...] = METHODS,
) -> None:  # fmt: skip
    """Score, write units.csv, .json and .png.

    Args:
        patch: side in pixels; the target's patch size where None.

    Raises:
        ConfigError: the target has no patches and none is given, or half a patch is no whole number of pixels.
    """
    ctx.use_all_cores()
    given = explainer_folder or ctx.paths.explainer
    explainer = clean_explainer(ctx, given)
    target = explainer.target
    side = patch or patch_side(target)
    if side % 2 or side > target.image_size:
        raise ConfigError(f"--patch {side}: an even number of at most {target.image_size} pixels is needed")
    applicable, left_out = baselines(ctx, target, methods)
    made: dict[str, Maps] = {
        f"{OURS}0": explainer.attribute,
        HYBRID: lambda x, classes: explainer.attribute(x, classes, hybrid=True),
    }
    if steps:
        made[f"{OURS}{steps}"] = lambda x, classes: explainer.attribute(x, classes, steps)
    made |= {name: method.attribute for name, method in applicable.items()}
    settings: dict[str, object] = {
        "steps": steps, "patch": side, "scatter": STRENGTH, "references": list(ctx.params.evaluate.references),
        "points": ctx.params.evaluate.points, "precision": ctx.params.evaluate.precision,
        "refinement": ctx.params.refine.model_dump(mode="json"), "trained_for": explainer.training.target,
    }  # fmt: skip
    dataset, indices = first_images(ctx, images)
    settings["images"] = len(indices)
    store = cache(ctx, "units", settings, [given])
    found = scored(ctx, store, target, made, dataset, indices, side)
    table = pd.DataFrame(rows(found, ctx))
    save_csv(table, out / "units.csv")
    save_figure(to_png(units_figure(table)), out / "units.png")
    atomic_json(out / "units.json", facts(ctx) | settings | {"left_out": left_out})
    ctx.console.print(summary(table))
    ctx.say(f"wrote units.csv, .json and .png to {out}")


def patch_side(target: Target) -> int:
    """Raises ConfigError for a target without square patches."""
    sides = getattr(getattr(target.model, "patch_embed", None), "patch_size", None)
    height, width = to_2tuple(sides)
    if sides is None or height != width:
        raise ConfigError(f"{target.name} has no square patches; give a side in pixels by --patch")
    return int(height)


def scored(
    ctx: Context,
    store: Cache,
    target: Target,
    made: dict[str, Maps],
    dataset: PreparedImages,
    indices: list[int],
    side: int,
) -> dict[str, dict[str, Tensor]]:
    """By method and unit `SCORES`, POS and NEG of N images, (5, N), in chunks that a second run finds again."""
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in made}
    with ctx.bar() as bar:
        task = bar.add_task("units", total=len(chunk_starts(ctx, len(indices))) * len(made))
        for chunk in scored_chunks(ctx, dataset, indices, target, ("pos_neg",)):
            for name, method in made.items():
                bar.update(task, description=name[:12])

                def measure(name: str = name, method: Maps = method, chunk: Chunk = chunk) -> dict[str, Tensor]:
                    maps = method(chunk.x, chunk.classes)
                    seeds = chunk.evaluator.scene.seeds
                    ranked = {
                        PIXELS: maps, PATCHES: rank_cells(maps, side, seeds),
                        SHIFTED: rank_cells(maps, side, seeds, side // 2), SCATTERED: scatter(maps, STRENGTH, seeds),
                    }  # fmt: skip
                    return {unit: chunk.scores(name, one, ACCURACY) for unit, one in ranked.items()}

                parts[name].append(store.tensors(f"{name}-{chunk.start:05d}", measure))
                bar.advance(task)
    return {
        name: {unit: torch.cat([part[unit] for part in own], dim=1) for unit in own[0]} for name, own in parts.items()
    }


def rows(found: dict[str, dict[str, Tensor]], ctx: Context) -> list[dict[str, Any]]:
    """A row for each method and unit: means with the intervals of SRG, POS and NEG, and SRG's difference from that by
    pixels and from AHA's one pass by the same unit, paired by image."""
    resamples, seed, table = ctx.params.evaluate.bootstrap, ctx.params.seed, []
    srg = {name: {unit: values[SRG].numpy() for unit, values in own.items()} for name, own in found.items()}
    for name, own in found.items():
        for unit in UNITS:
            interval = bootstrap_ci(srg[name][unit], resamples, seed)
            row: dict[str, Any] = {"method": name, "unit": unit}
            row |= dict(zip(SCORES, own[unit][: len(SCORES)].mean(dim=1).tolist(), strict=True))
            row |= {"low": interval.low, "high": interval.high}
            for column, values in zip(ACCURACY, own[unit][len(SCORES) :].numpy(), strict=True):
                share = bootstrap_ci(values, resamples, seed)
                row |= {column: share.mean, f"{column}_low": share.low, f"{column}_high": share.high}
            others: dict[str, np.ndarray] = {"minus_pixels": srg[name][PIXELS], "minus_one_pass": srg[f"{OURS}0"][unit]}
            for column, other in others.items():
                gap = paired_difference(srg[name][unit], other, resamples, seed)
                row |= {column: gap.mean, f"{column}_low": gap.low, f"{column}_high": gap.high}
            table.append(row)
    return table


def summary(table: pd.DataFrame) -> Table:
    shown = Table("SRG by", *UNITS, box=None)
    for name, own in table.groupby("method", sort=False):
        cells = own.set_index("unit")
        shown.add_row(method_label(str(name)), *(f"{cells.srg[unit]:.3f}" for unit in cells.index))
    return shown
