"""Stage `report`: figures and one self-contained HTML file from what the other stages stored."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from aha_core.figures import method_label
from aha_core.files import atomic_path, atomic_text
from aha_core.metrics import bootstrap_ci
from aha_core.report import (
    Difference,
    Estimate,
    ReferenceRow,
    ReportContent,
    ReportFigure,
    ScoreRow,
    render_report,
)
from aha_core.report.contract import contract_lines
from aha_core.report.tables import markdown
from aha_core.summary import OURS, headline
from stages.context import Context
from stages.outputs import rebuild
from stages.reporting.explorer import explorer
from stages.reporting.figures import draw
from stages.reporting.results import Results, load, notes
from stages.reporting.studies import read_studies, throughput
from stages.tracking import Tracker

PACKAGES = ("torch", "torchvision", "timm", "captum", "ray", "mlflow", "dvc")
REMOVED = 0.2  # share of the pixels in the verdict: the fraction of the curves that is nearest


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
        atomic_text(out / "tables.md", markdown(content.tables, content.warnings, content.contract))
    tracker.log_files(sorted(ctx.paths.report.iterdir()), "report")
    tracker.finish()
    ctx.say(f"report: {ctx.paths.report.relative_to(ctx.paths.root)}/index.html")


def compose(ctx: Context, results: Results, pictures: list[ReportFigure]) -> ReportContent:
    params = ctx.params
    target = json.loads((ctx.paths.target / "target.json").read_text())
    accuracy, summary = target["accuracy"], target["summary"]
    images = results.rows["index"].nunique()
    studies, missing = read_studies(ctx)
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
        opening=pictures[0],
        explorer=explorer(results),
        figures=tuple(pictures[1:]),
        studies=studies,
        missing=missing,
        contract=contract_lines(params.evaluate, params.perturbation),
        facts={
            "Target": f"{target['name']}, {summary['parameters']:,} parameters, {summary['classes']} classes",
            "Target accuracy": f"{accuracy['top1']:.1%} top-1 on {accuracy['images']} test images",
            "Explained class": results.role.replace("_", " "),
            "Training": f"{params.train.steps} steps of {params.train.batch_size} images, {params.ranking.method}",
            "Masked passes per training image": str(params.objective.masked_passes),
            "Refinement": f"{params.refine.steps} steps, {len(params.refine.references)} references, "
            f"{2 * params.refine.fractions * len(params.refine.references)} masked passes each",
            "Throughput": throughput(ctx) or "not measured; `aha bench explain`, then `aha report`",
            "Seconds and memory per map": "belong to a machine: in the MLflow run, seconds_per_map and peak_mb",
            "Seed": str(params.seed),
        },
        reproduce=("git checkout <this commit>", "pip install -e . -c constraints.txt", "dvc repro"),
        versions={"Python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        warnings=notes(results.summary),
        tables=results.tables,
        score_note="Here AHA in the differences is the one pass.",
    )


def score_row(results: Results, method: str) -> ScoreRow:
    own, place = results.scores[method], results.localisation.get(method)
    against = own.get(f"{OURS}0_minus_this")
    return ScoreRow(
        method=method,
        images=own["images"] if own["images"] < max(each["images"] for each in results.scores.values()) else None,
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
    return (focus(results), *standing(results), *place(results))


def focus(results: Results) -> str:
    """How little of an image the class hangs on: the probability without the pixels that AHA ranks highest."""
    first, last = headline(results.scores)
    fractions, _, _ = results.mean_curves(last)
    at = int(np.abs(fractions - REMOVED).argmin())
    whole = results.mean_curves(last)[1][:, 0].mean()
    without = {
        name: bootstrap_ci(results.mean_curves(name)[1][:, at], 2000, 0)
        for name in (last, "random")
        if name in results.scores
    }
    text = (
        f"Without the {fractions[at]:.0%} of the pixels that AHA ranks highest, the class's probability falls from "
        f"{whole:.2f} to {bounds(asdict(without[last]), 2)}"
    )
    if "random" in without:
        text += f"; without as many random ones, to {bounds(asdict(without['random']), 2)}"
    return text + "."


def standing(results: Results) -> list[str]:
    """AHA's score, and its distance from the best baseline."""
    first, last = headline(results.scores)
    lines = [
        f"SRG (insertion − deletion AUC): {bounds(results.scores[first]['srg'])} in one pass, "
        f"{bounds(results.scores[last]['srg'])} after {last.removeprefix(OURS)} refinement steps."
    ]
    best = results.best_baseline
    if best is None:
        return lines
    for ours, words in ((first, "in one pass"), (last, "after refinement")):
        gap = results.scores[best][f"{ours}_minus_this"]
        sure = gap["low"] > 0 or gap["high"] < 0
        side, sign = ("above", 1) if gap["mean"] > 0 else ("below", -1)
        low, high = sorted((sign * gap["low"], sign * gap["high"]))
        distance = {"mean": sign * gap["mean"], "low": low, "high": high}
        lines.append(
            f"{words.capitalize()}, AHA is {bounds(distance)} {side} the best baseline, {method_label(best)} "
            f"(paired by image"
            f"{')' if sure else '; not distinguishable from zero)'}."
        )
    return lines


def place(results: Results) -> list[str]:
    """Where the map lies, for data with masks."""
    own = results.localisation.get(headline(results.scores)[0])
    if not own:
        return []
    return [
        f"{own['energy']['mean']:.0%} [{own['energy']['low']:.0%}, {own['energy']['high']:.0%}] of the one-pass map's "
        f"positive mass lies on the labelled object, which covers {own['area']['mean']:.0%} of the image (mean of "
        f"{own['energy']['n']} images with masks)."
    ]


def bounds(interval: dict[str, float], digits: int = 3) -> str:
    """mean [low, high]."""
    mean, low, high = (f"{interval[name]:.{digits}f}".replace("-", "−") for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
