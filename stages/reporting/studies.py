"""Studies in the report: those of `aha study` that lie in outputs/study and belong to this target.

They are no dependency of the stage (a study takes longer than the pipeline): `aha report` shows what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aha_core.figures import method_label
from aha_core.report import ReportFigure, ReportStudy
from aha_core.summary import OURS, is_baseline
from stages.context import Context

Say = Callable[[pd.DataFrame, dict[str, Any]], tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """pictures: files to captions; table: CSV file; say: sentences from the table and the facts."""

    id: str
    title: str
    table: str
    pictures: dict[str, str]
    say: Say


def shortcut(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    own = table[(table.target == "poisoned") & (table.group == "all")]
    ours = own[own.method == "aha"].sort_values("steps")
    first, last = ours.iloc[0], ours.iloc[-1]
    others = [f"{method_label(row.method)} {row.found:.0%}" for row in own[own.method != "aha"].itertuples()]
    return (
        f"A copy of the classifier learnt a marker for the class {facts['class']}: {first.fooled:.0%} of "
        f"{facts['images']} marked images are given the class. The explainer never saw it.",
        f"{interval(first, 'found')} of the maps have the marker among the most important tenth in one pass, "
        f"{interval(last, 'found')} after {int(last.steps)} steps; without the marker the same place is there in "
        f"{interval(last, 'false_alarms')} of the marked class's maps and in {interval(last, 'predicted_alarms')} of "
        "the predicted class's." + (f" Baselines: {', '.join(others)}." if others else ""),
    )


def transfer(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    lines = []
    for name, rows in table[table.method == "aha"].groupby("target", sort=False):
        rows = rows.sort_values("steps")
        first, last = rows.iloc[0], rows.iloc[-1]
        lines.append(f"{name} {first.srg:.3f} to {last.srg:.3f} [{last.low:.3f}, {last.high:.3f}]")
    return (
        "SRG of the explainer on targets that it was not trained on, in one pass and after the last refinement step: "
        f"{'; '.join(lines)}.",
    )


def sanity(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    last = table.sort_values("depth").groupby("method", sort=False).tail(1)
    likeness = [
        f"{'AHA, one pass' if row.method == 'aha' else method_label(row.method)} {row.spearman:.2f} "
        f"[{row.spearman_low:.2f}, {row.spearman_high:.2f}]"
        for row in last.itertuples()
    ]
    return (
        f"With every layer of the target random, maps should no longer be alike (Spearman near 0; {facts['images']} "
        f"images): {', '.join(likeness)}.",
    )


def localisation(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    everywhere = table[table.images_of == "all"].set_index("method")
    others = [name for name in everywhere.index if is_baseline(name)]
    shares = [f"{method_label(name)} {everywhere.energy[name]:.0%}" for name in others]
    first = everywhere.loc[f"{OURS}0"]
    return (
        f"{interval(first, 'energy')} of the one-pass map's positive part lies on the objects, which cover "
        f"{first.area:.0%} of {facts['images']} photographs" + (f"; {', '.join(shares)}." if shares else "."),
    )


def tradeoff(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    ours, rise = table[table.method == "aha"], table[table.method == "rise"].iloc[-1]
    once, last = ours[ours.steps == 0].iloc[0], ours.iloc[-1]
    others = "; ".join(
        f"{method_label(row.method)} {priced(row)}" for row in table[~table.method.isin(["aha", "rise"])].itertuples()
    )
    return (
        f"SRG on {facts['images']} images: AHA in one pass {priced(once)}, after {last.steps:.0f} steps with "
        f"{last.setting} {priced(last)}; RISE with {rise.masks:,.0f} masks {priced(rise)}"
        + (f"; {others}." if others else "."),
        f"On the same images, AHA in one pass minus RISE: {once.minus_rise:+.3f} [{once.minus_rise_low:+.3f}, "
        f"{once.minus_rise_high:+.3f}]; after the steps {last.minus_rise:+.3f} [{last.minus_rise_low:+.3f}, "
        f"{last.minus_rise_high:+.3f}].",
    )


def units(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    by = table.set_index(["method", "unit"])
    gains = "; ".join(
        f"{method_label(name)} {by.srg[name, 'pixels']:.3f} by pixels, {by.srg[name, 'patches']:.3f} by patches"
        for name in table.method.unique()
    )
    grains = "; ".join(
        f"{method_label(name)} {by.pos[name, 'pixels']:.1f} as it is, {by.pos[name, 'scattered']:.1f} scattered"
        for name in table.method.unique()
    )
    return (
        f"SRG on {facts['images']} images where the same map ranks whole patches of {facts['patch']} px: {gains}.",
        f"POS, which a finer grain lowers whatever the map says: {grains}.",
    )


def refinement(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    preset, others = table.iloc[0], table.iloc[1:]
    best = others.loc[others.difference.idxmax()]
    return (
        f"Settings of the refinement, tried on {facts['images']} images of the training split: the profile's have SRG "
        f"{preset.srg:.3f} [{preset.low:.3f}, {preset.high:.3f}]. The best of the others, {best.setting}: "
        f"{best.difference:+.3f} [{best.difference_low:+.3f}, {best.difference_high:+.3f}], without correction for "
        "the choice.",
    )


def relaxation(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    own = table[table.default.astype(bool)].iloc[0]
    return (
        f"Relaxation, temperature, fractions S and grids, each varied around the default (SRG {own.srg:.3f} in one "
        "pass on held-out images).",
    )


def designs(table: pd.DataFrame, facts: dict[str, Any]) -> tuple[str, ...]:
    own = table[table.default.astype(bool)].iloc[0]
    return (
        f"One change of the preset at a time, {facts['steps']} training steps each, {facts['images']} held-out images "
        f"in one pass; the preset has SRG {own.srg:.3f}.",
    )


STUDIES = (
    Study("shortcut", "Would it find a shortcut?", "shortcut.csv", {
        "shortcut.png": "How often the marker is found over refinement steps, beside the clean target and baselines.",
        "shortcut-strip.png": "Marked images and their maps; outlined: the marker.",
    }, shortcut),
    Study("transfer", "Other targets", "transfer.csv", {
        "transfer.png": "SRG over refinement steps on each target; a fresh explainer where one was trained.",
    }, transfer),
    Study("tradeoff", "What better maps cost", "tradeoff.csv", {
        "tradeoff.png": "SRG over passes of the target and over seconds per map, with 95 % intervals.",
    }, tradeoff),
    Study("sanity", "Does the map follow the weights?", "sanity.csv", {
        "sanity.png": "Likeness to the intact target's map while layers are made random from the output downwards.",
    }, sanity),
    Study("localisation", "Does the map lie on the object?", "localisation.csv", {
        "localisation.png": "Photographs with masks or boxes; the centred Gaussian does not look at them.",
    }, localisation),
    Study("units", "What is the map's grain worth?", "units.csv", {
        "units.png": "The same maps by pixels, by the classifier's patches, by cells that miss them, and scattered.",
    }, units),
    Study("refinement", "Which settings refine best?", "refinement.csv", {
        "refinement.png": "Paired difference of each setting's SRG from the profile's, on training images.",
    }, refinement),
    Study("relaxation", "Trade-offs of the training", "relaxation.csv", {
        "relaxation.png": "Paired difference of each setting's SRG from the default's, with 95 % intervals.",
    }, relaxation),
    Study("designs", "What each part is worth", "designs.csv", {
        "designs.png": "Paired difference of each design's SRG from the preset's, with 95 % intervals.",
    }, designs),
)  # fmt: skip


def read_studies(ctx: Context) -> tuple[tuple[ReportStudy, ...], tuple[tuple[str, str], ...]]:
    """The studies of this target, and (what, command) of those that are not there."""
    folder = ctx.paths.outputs / "study"
    found, missing = [], []
    for study in STUDIES:
        facts = known_facts(folder, study)
        command = f"aha study {study.id}"
        if facts is None or not same_target(ctx, facts):
            old = "made for another target" if facts is not None else ""
            missing.append((f"{study.title}{f' ({old})' if old else ''}", command))
            continue
        drawn = [
            ReportFigure(f"{study.id}-{number}", study.title, caption, (folder / name).read_bytes())
            for number, (name, caption) in enumerate(study.pictures.items(), start=1)
            if (folder / name).is_file()
        ]
        sentences = study.say(pd.read_csv(folder / study.table), facts)
        found.append(ReportStudy(f"study-{study.id}", study.title, sentences, tuple(drawn), command))
    return tuple(found), tuple(missing)


def throughput(ctx: Context) -> str | None:
    """What `aha bench explain` measured on this target, None where it was not measured."""
    file = ctx.paths.outputs / "bench/explain.json"
    facts = json.loads(file.read_text()) if file.is_file() else None
    if facts is None or not same_target(ctx, facts):
        return None
    return (
        f"{facts['explain']:.3g} images/s in one pass, pictures written, on {facts['device']} with {facts['threads']} "
        f"threads; {facts['efficiency']:.0%} of decoding and plain passes of the target alone"
    )


def known_facts(folder: Path, study: Study) -> dict[str, Any] | None:
    """The study's settings, None where its results are not complete."""
    file = folder / f"{study.id}.json"
    if not (file.is_file() and (folder / study.table).is_file()):
        return None
    return json.loads(file.read_text())


def same_target(ctx: Context, facts: dict[str, Any]) -> bool:
    """Whether name, input size and seed are those of the active parameters."""
    params = ctx.params
    own = {"target": params.target.name, "image_size": params.data.image_size, "seed": params.seed}
    return all(facts.get(name, value) == value for name, value in own.items())


def priced(row: Any) -> str:
    """The score with its interval, and what a map costs."""
    cost = f"{row.passes:,.0f} pass{'' if row.passes == 1 else 'es'}"
    return f"{row.srg:.3f} [{row.low:.3f}, {row.high:.3f}] ({cost})"


def interval(row: Any, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
