"""The report's figures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from aha_core import figures
from aha_core.budget import counted, passes_of
from aha_core.perturbation import reference_images, remove, upsample_masks
from aha_core.ranking import make_relaxation, standardise
from aha_core.report import ReportFigure
from aha_core.summary import OURS, headline, is_baseline, per_image, ranks_of_summary, refinement_steps
from stages.context import Context
from stages.reporting.results import Results, in_unit_range, pixels_of

HERO_IMAGES = 8
HERO_METHODS = ("chefer", "rise", "grad_cam", "integrated_gradients")
CURVES, FLOORS = 11, ("centre", "random")
MASK_GRIDS, MASK_FRACTIONS = (7, 14, 28), (0.1, 0.25, 0.5, 0.75)

TEXTS = {
    "hero": ("Maps at a glance", "The same images, each method's map. Brighter = removed first."),
    "gallery": ("Gallery", "Every method on the same images, a class in turn; the explained class and its probability "
                "below."),
    "refinement": ("Refinement", "The map after each gradient step, with the image's SRG."),
    "srg-by-step": ("Score by refinement step", "Mean with 95 % interval; dashed: the best baselines on the same "
                    "images."),
    "cost": ("Quality over cost", "Mean SRG over passes of the target for one map, a backward pass counted as two; a "
             "refinement step costs the same for every image. Slow methods have fewer images."),
    "masks": ("Soft masks", "What the objective removes: the final map, ranked on several grids at the final "
              "temperature of the training; white = replaced by the mean colour."),
    "curves": ("Deletion and insertion", "Mean over images and reference images with 95 % bands; of many baselines the "
               "best and the floors, all are in the tables."),
    "ranks": ("Mean ranks", "SRG ranks averaged over images, best at the left; a bar joins methods that paired "
              "Wilcoxon tests, Holm-corrected over all pairs, do not separate."),
    "training": ("Training curve", "Means between reports; thick line: running mean."),
}  # fmt: skip


def draw(ctx: Context, results: Results) -> list[ReportFigure]:
    """All figures, in the report's order; `hero`, the README's picture, is the first."""
    shown, scores, plots = results.shown, results.scores, ctx.paths.plots
    srg = {method: scores[method]["srg"]["mean"] for method in scores}
    everywhere = max(one["images"] for one in scores.values())  # not the slow methods, which have fewer images
    baselines = {m: srg[m] for m in shown if is_baseline(m) and scores[m]["images"] == everywhere}
    drawn: dict[str, Callable[[], Figure]] = {
        "hero": lambda: hero(results, srg),
        "gallery": lambda: figures.gallery_figure(
            results.images, {method: results.gallery[method] for method in shown}, results.titles
        ),
        "refinement": lambda: strip(results, ctx.params.report.strip),
        "srg-by-step": lambda: figures.srg_by_step_figure(read_csv(plots / "refinement.csv"), baselines),
        "cost": lambda: cost(ctx, results, srg),
        "masks": lambda: masks(results),
        "curves": lambda: figures.curves_figure({method: results.mean_curves(method) for method in told_apart(shown)}),
        "ranks": lambda: ranks(results.summary["ranks"]),
        "training": lambda: figures.training_curve_figure(read_csv(plots / "training.csv")),
    }
    texts = dict(TEXTS)
    for role, curves in ({results.role: results.curves} | results.other_curves).items():
        name, words = f"curves-{role}", role.replace("_", " ")
        own = {reference: {m: of[m] for m in told_apart(shown) if m in of} for reference, of in curves.items()}
        drawn[name] = partial(figures.curves_by_reference_figure, own)
        texts[name] = (f"By reference: {words} class", "Mean over images with 95 % bands, for each reference image.")
    order = [name for name in drawn if name != "training"] + ["training"]
    return [
        ReportFigure(name, *texts[name], figures.to_png(drawn[name]()))
        for name in ctx.progress(order, len(order), "figures")
    ]


def told_apart(methods: list[str]) -> list[str]:
    """As many of these, which are sorted, as lines of one figure can be told apart: AHA, the best baselines, floors."""
    baselines = [name for name in methods if is_baseline(name)]
    kept = {*baselines[:CURVES], *(name for name in baselines if name in FLOORS)}
    return [name for name in methods if name in kept or not is_baseline(name)]


def hero(results: Results, srg: dict[str, float]) -> Figure:
    places = range(min(HERO_IMAGES, len(results.images)))
    methods = [name for name in (*headline(results.scores), *HERO_METHODS) if name in results.scores]
    return figures.hero_figure(
        [results.images[place] for place in places],
        {method: [results.gallery[method][place] for place in places] for method in dict.fromkeys(methods)},
        [results.names[place] for place in places],
        srg,
    )


def strip(results: Results, count: int) -> Figure:
    steps, places = refinement_steps(results.scores), range(min(count, len(results.images)))
    scores = per_image(results.rows, results.role)["srg"]
    return figures.strip_figure(
        [results.images[place] for place in places],
        [[results.gallery[f"{OURS}{step}"][place] for step in steps] for place in places],
        [[scores.get((f"{OURS}{step}", results.places[place])) for step in steps] for place in places],
    )


def cost(ctx: Context, results: Results, srg: dict[str, float]) -> Figure:
    refine, costs = ctx.params.refine, results.summary["passes_per_map"]
    refined = [(t, passes_of(refine, t), srg[f"{OURS}{t}"]) for t in refinement_steps(results.scores)]
    others = {
        method: (counted(**costs[method]), srg[method])
        for method in results.shown
        if method in costs and not method.startswith(OURS)
    }
    return figures.cost_figure(refined, others)


def masks(results: Results) -> Figure:
    """Soft deletion masks of the gallery's first image, of the last refinement step's map."""
    image, (_, last) = results.images[0], headline(results.scores)
    own = results.gallery[last][0]
    assert own is not None  # all of AHA's maps are there
    x, scores = in_unit_range(image), torch.from_numpy(own)[None, None]
    filling, config = reference_images(x, "mean", results.perturbation), results.ranking
    rows = {}
    for grid in MASK_GRIDS:
        cells = standardise(F.adaptive_avg_pool2d(scores, grid).flatten(1))
        relaxation = make_relaxation(config.model_copy(update={"noise": False}), config.tau_end, grid * grid)
        soft = relaxation.soft_topk_masks(cells, torch.tensor(MASK_FRACTIONS) * grid * grid)
        large = upsample_masks(soft, grid, (x.shape[2], x.shape[3]))
        left = remove(x, large, filling)
        rows[grid] = [(mask[0, 0].numpy(), pixels_of(one[0])) for mask, one in zip(large, left, strict=True)]
    return figures.soft_masks_figure(figures.overlay(image, own), MASK_FRACTIONS, rows)


def ranks(summary: dict[str, Any]) -> Figure:
    names, difference = ranks_of_summary(summary)
    return figures.critical_difference_figure(names, difference.mean_ranks, difference.groups)


def read_csv(file: Path) -> list[dict[str, float]]:
    with file.open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
