"""Stage `report`: figures and one self-contained HTML file from what the other stages stored."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aha_core import figures
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import display_names
from aha_core.files import atomic_path, atomic_text
from aha_core.report import (
    Difference,
    Estimate,
    ReferenceRow,
    ReportContent,
    ReportFigure,
    ReportTable,
    ScoreRow,
    render_report,
)
from aha_core.report.contract import contract_lines
from aha_core.report.tables import markdown, summary_tables
from aha_core.summary import OURS, headline, per_image, ranks_of_summary, refinement_steps
from stages.context import Context
from stages.outputs import rebuild
from stages.tracking import Tracker

HERO_IMAGES = 8
HERO_METHODS = ("chefer", "rise", "grad_cam", "integrated_gradients")
PACKAGES = ("torch", "torchvision", "timm", "captum", "ray", "mlflow", "dvc")


@dataclass(frozen=True)
class Results:
    """What evaluation stored, for the first class role."""

    role: str
    scores: dict[str, Any]
    localisation: dict[str, Any]
    ranks: dict[str, Any]
    notes: tuple[str, ...]
    tables: tuple[ReportTable, ...]
    rows: pd.DataFrame
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    gallery: dict[str, np.ndarray]
    images: list[np.ndarray]
    titles: list[str]
    names: list[str]

    @property
    def shown(self) -> list[str]:
        """AHA in one pass and refined, then the baselines from best to worst."""
        return in_order(self.scores)


def in_order(scores: dict[str, Any]) -> list[str]:
    ours = list(dict.fromkeys(headline(scores)))
    others = [name for name in scores if not name.startswith(OURS)]
    return ours + sorted(others, key=lambda name: -scores[name]["srg"]["mean"])


def run(ctx: Context) -> None:
    tracker = Tracker.for_stage(ctx.tracking_uri, ctx.paths)
    results = load(ctx)
    pictures = draw(ctx, results)
    content = compose(ctx, results, pictures)
    with rebuild(ctx.paths.report) as out:
        for picture in pictures:
            with atomic_path(out / f"{picture.id}.png") as temporary:
                temporary.write_bytes(picture.png)
        render_report(content, out / "index.html")
        atomic_text(out / "tables.md", markdown(results.tables, results.notes))
    tracker.log_files(sorted(ctx.paths.report.iterdir()), "report")
    tracker.finish()
    ctx.say(f"report: {ctx.paths.report.relative_to(ctx.paths.root)}/index.html")


def load(ctx: Context) -> Results:
    paths, config = ctx.paths, ctx.params.evaluate
    role = config.classes[0]
    summary = json.loads((paths.metrics / "evaluation.json").read_text())
    rows = pd.read_parquet(paths.evaluation / "scores.parquet")
    stored = np.load(paths.evaluation / "curves.npz")
    gallery = np.load(paths.evaluation / "gallery.npz")
    curves = {}
    for method in summary["scores"][role]:
        stacked = np.mean([stored[f"{method}/{role}/{name}"] for name in config.references], axis=0)
        curves[method] = (stored["fractions"], stacked[0], stacked[1])
    dataset = PreparedImages(paths.data, "test")
    names = json.loads((paths.target / "target.json").read_text())["class_names"]
    first = rows[rows["role"] == role].drop_duplicates("index").head(ctx.params.report.gallery)
    return Results(
        role=role,
        scores=summary["scores"][role],
        localisation=summary.get("localisation", {}),
        ranks=summary["ranks"],
        notes=notes(summary),
        tables=summary_tables(summary, role, in_order(summary["scores"][role])),
        rows=rows,
        curves=curves,
        gallery={method: gallery[f"{role}/{method}"].astype(np.float32) for method in summary["scores"][role]},
        images=[dataset.image(int(index)).permute(1, 2, 0).numpy() for index in first["index"]],
        titles=[f"{display_names([names[row['class']]])[0]} {row['probability']:.2f}" for _, row in first.iterrows()],
        names=[display_names([names[int(one)]])[0] for one in first["class"]],
    )


def draw(ctx: Context, results: Results) -> list[ReportFigure]:
    """All figures; `hero` is the README's."""
    paths, shown = ctx.paths, results.shown
    srg = {method: results.scores[method]["srg"]["mean"] for method in results.scores}
    baselines = {method: srg[method] for method in shown if not method.startswith(OURS)}
    count = len(results.images)
    # spread the hero's images over the gallery, which is spread over the classes
    places = [place * count // min(HERO_IMAGES, count) for place in range(min(HERO_IMAGES, count))]
    hero = [method for method in (*headline(results.scores), *HERO_METHODS) if method in results.scores]
    steps = refinement_steps(results.scores)
    strip = range(min(ctx.params.report.strip, count))
    step_scores = per_image(results.rows, results.role)["srg"]
    indices = results.rows.drop_duplicates("index")["index"].tolist()
    drawn: dict[str, Callable[[], Figure]] = {
        "hero": lambda: figures.hero_figure(
            [results.images[place] for place in places],
            {method: [results.gallery[method][place] for place in places] for method in dict.fromkeys(hero)},
            [results.names[place] for place in places],
            srg,
        ),
        "curves": lambda: figures.curves_figure({method: results.curves[method] for method in shown}),
        "gallery": lambda: figures.gallery_figure(
            results.images, {method: list(results.gallery[method][:count]) for method in shown}, results.titles
        ),
        "refinement": lambda: figures.strip_figure(
            [results.images[place] for place in strip],
            [[results.gallery[f"{OURS}{step}"][place] for step in steps] for place in strip],
            [[float(step_scores[f"{OURS}{step}", indices[place]]) for step in steps] for place in strip],
        ),
        "srg-by-step": lambda: figures.srg_by_step_figure(read_csv(paths.plots / "refinement.csv"), baselines),
        "ranks": lambda: rank_figure(results.ranks),
        "training": lambda: figures.training_curve_figure(read_csv(paths.plots / "training.csv")),
    }
    texts = {
        "hero": ("Maps at a glance", "The same images, each method's map. Brighter = removed first."),
        "curves": ("Deletion and insertion", "Mean over images and reference images with 95 % bands."),
        "gallery": ("Gallery", "Every method on the same images; the explained class and its probability below."),
        "refinement": ("Refinement", "The map after each gradient step, with the image's SRG."),
        "srg-by-step": ("Score by refinement step", "Mean with 95 % interval; dashed: the best baselines."),
        "ranks": (
            "Mean ranks",
            "SRG ranks averaged over images, best at the left; a bar joins methods that paired Wilcoxon tests, "
            "Holm-corrected over all pairs, do not separate.",
        ),
        "training": ("Training curve", "Means between reports; thick line: running mean."),
    }
    return [
        ReportFigure(name, *texts[name], figures.to_png(drawn[name]()))
        for name in ctx.progress(drawn, len(drawn), "figures")
    ]


def rank_figure(ranks: dict[str, Any]) -> Figure:
    names, difference = ranks_of_summary(ranks)
    return figures.critical_difference_figure(names, difference.mean_ranks, difference.groups)


def notes(summary: dict[str, Any]) -> tuple[str, ...]:
    """What a reader of the table must know: methods left out, failed images, precision."""
    label = figures.method_label
    lines = [f"{label(name)} is not applicable: it {reason}." for name, reason in summary["not_applicable"].items()]
    lines += [
        f"{label(name)} gave no usable map for {one['failed']} of {one['of']} images; its row averages the others."
        for name, one in summary.get("failures", {}).items()
    ]
    if "precision" in summary:
        lines.append(
            "Scored in {type}; probabilities differ from float32 by at most {max_error:g}.".format(
                **summary["precision"]
            )
        )
    return tuple(lines)


def read_csv(file: Path) -> list[dict[str, float]]:
    with file.open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def compose(ctx: Context, results: Results, pictures: list[ReportFigure]) -> ReportContent:
    params = ctx.params
    target = json.loads((ctx.paths.target / "target.json").read_text())
    accuracy, summary = target["accuracy"], target["summary"]
    images = results.rows["index"].nunique()
    return ReportContent(
        title=f"What {target['name']} looks at",
        subtitle=f"AHA on {images} test images, {params.data.source} data at {params.data.image_size} px",
        verdict=verdict(results),
        scores=tuple(score_row(results, method) for method in results.shown),
        references={
            name: tuple(
                ReferenceRow(method, **results.scores[method]["by_reference"][name]) for method in results.shown
            )
            for name in params.evaluate.references
        },
        figures=tuple(pictures),
        contract=contract_lines(params.evaluate, params.perturbation),
        facts={
            "Target": f"{target['name']}, {summary['parameters']:,} parameters, {summary['classes']} classes",
            "Target accuracy": f"{accuracy['top1']:.1%} top-1 on {accuracy['images']} test images",
            "Explained class": results.role.replace("_", " "),
            "Training": f"{params.train.steps} steps of {params.train.batch_size} images, {params.ranking.method}",
            "Masked passes per training image": str(2 * params.objective.fractions),
            "Refinement": f"{params.refine.steps} steps, {len(params.refine.references)} references, "
            f"{2 * params.refine.fractions * len(params.refine.references)} masked passes each",
            "Seed": str(params.seed),
        },
        reproduce=("git checkout <this commit>", "dvc repro"),
        versions={package: version(package) for package in PACKAGES},
        warnings=results.notes,
        tables=results.tables,
        score_note="Intervals are 95 % bootstrap intervals over images; differences are AHA in one pass minus the "
        "method, paired by image, p values Holm-corrected.",
    )


def score_row(results: Results, method: str) -> ScoreRow:
    own, place = results.scores[method], results.localisation.get(method)
    against = own.get(f"{OURS}0_minus_this")
    return ScoreRow(
        method=method,
        deletion=estimate(own["deletion"]),
        insertion=estimate(own["insertion"]),
        srg=estimate(own["srg"]),
        difference=Difference(*(against[name] for name in ("mean", "low", "high", "p_holm"))) if against else None,
        energy=estimate(place["energy"]) if place else None,
        pointing=estimate(place["pointing"]) if place else None,
    )


def estimate(interval: dict[str, float]) -> Estimate:
    return Estimate(interval["mean"], interval["low"], interval["high"])


def verdict(results: Results) -> tuple[str, ...]:
    """The answer first, in sentences with numbers and intervals."""
    first, last = headline(results.scores)
    best = next((method for method in results.shown if not method.startswith(OURS)), None)
    one, refined = results.scores[first]["srg"], results.scores[last]["srg"]
    lines = [
        f"One pass of AHA reaches an SRG (insertion − deletion AUC) of {one['mean']:.3f} "
        f"[{one['low']:.3f}, {one['high']:.3f}]; refinement to T = {last.removeprefix(OURS)} reaches "
        f"{refined['mean']:.3f} [{refined['low']:.3f}, {refined['high']:.3f}]."
    ]
    if best:
        for ours, words in ((first, "in one pass"), (last, "after refinement")):
            gap = results.scores[best][f"{ours}_minus_this"]
            sure = gap["low"] > 0 or gap["high"] < 0
            side = "above" if gap["mean"] > 0 else "below"
            lines.append(
                f"{words.capitalize()}, AHA is {abs(gap['mean']):.3f} {side} the best baseline, "
                f"{figures.method_label(best)} ([{gap['low']:.3f}, {gap['high']:.3f}] paired by image"
                f"{')' if sure else '; not distinguishable from zero)'}."
            )
    if results.localisation:
        own = results.localisation[first]
        lines.append(
            f"{own['energy']['mean']:.0%} of the one-pass map's positive mass lies on the labelled object, which "
            f"covers {own['area']['mean']:.0%} of the image."
        )
    return tuple(lines)
