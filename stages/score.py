"""`aha score`: maps of another tool under the same contract, parameters and images as `evaluate`.

The centre baseline is scored beside them on the same images and classes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from aha_core.baselines import make_baseline
from aha_core.class_names import class_index
from aha_core.config import ClassRole
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.errors import AttributionError
from aha_core.evaluation import Attempt, ChunkEvaluator, Scores, attempt_maps
from aha_core.external import SHOWN, Entry, check_maps, read_manifest, read_maps
from aha_core.files import atomic_json
from aha_core.metrics import curve_fractions
from aha_core.report.contract import contract_lines
from aha_core.summary import (
    BY_REFERENCE,
    HYBRID,
    OURS,
    REFERENCE_FREE,
    SCORES,
    headline,
    paired_differences,
    per_image,
    summarise_columns,
    summarise_localisation,
)
from aha_core.targets import Target
from stages.context import Context
from stages.images import load
from stages.methods import baseline_settings
from stages.outputs import rebuild
from stages.results import save_arrays, save_table

ROLE: ClassRole = "predicted"  # what the rows are compared under; a class of the manifest may differ
CENTRE = "centre"  # the baseline that is always scored, too
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # a method's: also a folder's
SAME_PROBABILITY = 2e-2  # largest difference of an unperturbed probability that is rounding, not another target


def run(ctx: Context, folder: Path, method: str, out: Path) -> dict[str, Any]:
    """Score the folder's maps; writes tables, curves and summary.json into `out`. Returns the summary.

    Raises AttributionError for unusable maps, names or an unsuitable `out`, before anything is scored.
    """
    check_name(method)
    goal = result_folder(out, folder)
    torch.set_num_threads(ctx.scoring_threads)
    target = Target.load(ctx.paths.target).to(ctx.device)
    dataset = PreparedImages(ctx.paths.data, "test")
    entries = read_manifest(folder)
    places = image_places(dataset, entries)
    wanted = [class_index(one.class_name, target, "class") if one.class_name else None for one in entries]
    size = target.image_size
    check_maps(entries, (size, size))
    labels = label_map(dataset.class_names, target.class_names)
    params = ctx.params
    centre = make_baseline(CENTRE, target, baseline_settings(ctx))
    scores = Scores(curve_fractions(params.evaluate.points, size * size)[1].numpy())
    step, scorer = params.resources.batch_size, ctx.scorer(target)
    for start in ctx.progress(range(0, len(entries), step), -(-len(entries) // step), method[:12]):
        own = slice(start, start + step)
        batch = load(dataset, places[own], labels, ctx.device)
        with torch.no_grad():
            predicted = target.probabilities(batch.x).argmax(dim=1)
        chosen = [int(p) if w is None else w for p, w in zip(predicted, wanted[own], strict=True)]
        classes = torch.tensor(chosen, device=predicted.device)
        evaluator = ChunkEvaluator(scorer, batch, ROLE, classes, params.evaluate, params.perturbation, params.seed)
        maps = read_maps(entries[own], (size, size)).to(batch.x.device)
        scores.add(evaluator.score(method, Attempt(maps, {})))
        scores.add(evaluator.score(CENTRE, attempt_maps(centre.attribute, batch.x, classes)))
    tables = scores.tables()
    summary = summarise(ctx, method, tables)
    with rebuild(goal) as fresh:
        for name, table in tables.items():
            save_table(table, fresh / f"{name}.parquet")
        curves = {"/".join(key): np.concatenate(parts, axis=1) for key, parts in scores.curves.items()}
        save_arrays(curves | {"fractions": scores.fractions}, fresh / "curves.npz")
        atomic_json(fresh / "summary.json", summary)
    srg = summary["scores"]["srg"]
    ctx.say(f"{method}: SRG {srg['mean']:.3f} [{srg['low']:.3f}, {srg['high']:.3f}] on {srg['n']} images -> {out}")
    for other, gap in summary["against"].items():
        ctx.say(f"{other} − {method}: {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] on {gap['n']} images")
    return summary


def check_name(method: str) -> None:
    """Raise AttributionError for a name that is no plain name of a folder, or is taken by a method of ours."""
    if not NAME.fullmatch(method):
        raise AttributionError(
            f"--method-name {method!r}: allowed are ASCII letters, digits, '_', '-' and '.', with no '.' in front"
        )
    if method.startswith(OURS) or method in (HYBRID, CENTRE):
        raise AttributionError(f"--method-name {method!r} is reserved; choose another name")


def result_folder(out: Path, maps: Path) -> Path:
    """`out` without links: a new or empty folder, or one with an earlier result, which will be replaced.

    Raises AttributionError where it has other content, is a file, or is, contains or lies in the folder of the maps.
    """
    goal, source = out.resolve(), maps.resolve()
    if goal.is_relative_to(source) or source.is_relative_to(goal):
        raise AttributionError(
            f"--out {out} is, contains or lies in the folder of the maps ({maps}), and would be replaced; "
            "choose a folder outside of it"
        )
    if goal.exists() and not (goal.is_dir() and (is_result(goal) or not any(goal.iterdir()))):
        raise AttributionError(
            f"--out {out} holds something else than a result of `aha score`, and would be replaced; "
            "choose a new or empty folder"
        )
    return goal


def is_result(folder: Path) -> bool:
    """Whether the folder holds a summary that `aha score` wrote."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):  # ValueError: no JSON, or no text
        return False
    return isinstance(summary, dict) and {"method", "contract"} <= summary.keys()


def image_places(dataset: PreparedImages, entries: list[Entry]) -> list[int]:
    """Places of the manifest's images in the test split. Raises AttributionError naming those that are not in it."""
    known = {dataset.name(place): place for place in range(len(dataset))}
    unknown = [one.image for one in entries if one.image not in known]
    if unknown:
        raise AttributionError(
            f"manifest.csv: {len(unknown)} images are not in the test split ({', '.join(unknown[:SHOWN])}); "
            f"names look like {next(iter(known))}"
        )
    return [known[one.image] for one in entries]


def summarise(ctx: Context, method: str, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Means with intervals, the contract, and paired differences to centre, and to AHA where it is comparable."""
    resamples, seed = ctx.params.evaluate.bootstrap, ctx.params.seed
    mine = per_image(tables["scores"], ROLE)
    columns = summarise_columns(mine.reset_index(), SCORES + BY_REFERENCE, resamples, seed)
    summary: dict[str, Any] = {
        "method": method,
        "scores": columns[method],
        CENTRE: columns[CENTRE],
        "contract": list(contract_lines(ctx.params.evaluate, ctx.params.perturbation)),
    }
    if "reference_free" in tables:
        summary["reference_free"] = summarise_columns(tables["reference_free"], REFERENCE_FREE, resamples, seed)[method]
    if "localisation" in tables:
        summary["localisation"] = summarise_localisation(tables["localisation"], resamples, seed)
    others = srg_of_ours(comparable(ctx, tables["scores"])) | {CENTRE: mine.loc[CENTRE]["srg"]}
    pairs = {other: (theirs, mine.loc[method]["srg"]) for other, theirs in others.items()}
    summary["against"] = paired_differences(pairs, resamples, seed)
    return json.loads(json.dumps(summary))


def comparable(ctx: Context, mine: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of `evaluate` for the same images and classes; None where it did not run.

    None, with a message why, also where it used other points, references or precision, another target (as far as the
    probabilities of the unperturbed images tell), or none of these images with the same class.
    """
    stored, curves = ctx.paths.evaluation / "scores.parquet", ctx.paths.evaluation / "curves.npz"
    if not (stored.is_file() and curves.is_file()):
        return None
    rows, config = pd.read_parquet(stored), ctx.params.evaluate
    with np.load(curves, allow_pickle=False) as arrays:
        points = len(arrays["fractions"])
    known = mine.drop_duplicates("index")[["image", "index", "class", "probability"]]
    same = rows[rows["role"] == ROLE].merge(known, on=["image", "index", "class"], suffixes=("", "_here"))
    gap = (same["probability"] - same["probability_here"]).abs().max()
    precision = stored_precision(ctx)
    if points != config.points or set(rows["reference"]) != set(mine["reference"]):
        reason = "has other references or points"
    elif precision not in (None, config.precision):
        reason = f"was scored in {precision} instead of {config.precision}"
    elif gap > SAME_PROBABILITY:
        reason = f"belongs to another target (probabilities of the same images and classes differ by up to {gap:.2g})"
    elif not len(same):
        ctx.say("outputs/evaluation has none of these images with the same class: no comparison with AHA")
        return None
    else:
        return same
    ctx.say(f"outputs/evaluation {reason}: no comparison with AHA; `aha evaluate` brings it up to date")
    return None


def stored_precision(ctx: Context) -> str | None:
    """What `evaluate` scored in; None where its summary is gone."""
    file = ctx.paths.metrics / "evaluation.json"
    if not file.is_file():
        return None
    return str(json.loads(file.read_text()).get("precision", {"type": "fp32"})["type"])


def srg_of_ours(rows: pd.DataFrame | None) -> dict[str, pd.Series]:
    """AHA's first and last step to the SRG of each image; nothing without rows of AHA."""
    if rows is None or f"{OURS}0" not in set(rows["method"]):
        return {}
    images = per_image(rows, ROLE)
    return {ours: images.loc[ours]["srg"] for ours in headline(rows["method"].unique())}
