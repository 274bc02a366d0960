"""`aha score`: maps of another tool under the same contract, parameters and images as `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from aha_core.class_names import class_index
from aha_core.config import ClassRole
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.errors import AttributionError
from aha_core.evaluation import Attempt, ChunkEvaluator, Scores
from aha_core.external import SHOWN, Entry, read_manifest, read_maps
from aha_core.files import atomic_json
from aha_core.metrics import curve_fractions, paired_difference
from aha_core.report.contract import contract_lines
from aha_core.summary import (
    BY_REFERENCE,
    HYBRID,
    LOCALISATION,
    OURS,
    REFERENCE_FREE,
    SCORES,
    headline,
    per_image,
    summarise_columns,
)
from aha_core.targets import Target
from stages.context import Context
from stages.images import load
from stages.outputs import rebuild
from stages.results import save_arrays, save_table

ROLE: ClassRole = "predicted"  # what the rows are compared under; a class of the manifest may differ


def run(ctx: Context, folder: Path, method: str, out: Path) -> dict[str, Any]:
    """Score the folder's maps; writes tables, curves and summary.json into `out`. Returns the summary.

    Raises AttributionError for unusable maps or names, before anything is scored.
    """
    ctx.use_all_cores()
    if not method or method.startswith(OURS) or method == HYBRID:
        raise AttributionError(f"--method-name {method!r} is reserved; choose another name")
    target = Target.load(ctx.paths.target).to(ctx.device)
    dataset = PreparedImages(ctx.paths.data, "test")
    entries = read_manifest(folder)
    places = image_places(dataset, entries)
    wanted = [class_index(one.class_name, target, "class") if one.class_name else None for one in entries]
    size = target.image_size
    maps = read_maps(entries, (size, size))
    labels = label_map(dataset.class_names, target.num_classes)
    params = ctx.params
    scores = Scores(curve_fractions(params.evaluate.points, size * size)[1].numpy())
    step = params.resources.batch_size
    for start in ctx.progress(range(0, len(entries), step), -(-len(entries) // step), method[:12]):
        own = slice(start, start + step)
        batch = load(dataset, places[own], labels, ctx.device)
        with torch.no_grad():
            predicted = target.probabilities(batch.x).argmax(dim=1)
        chosen = [int(p) if w is None else w for p, w in zip(predicted, wanted[own], strict=True)]
        classes = torch.tensor(chosen, device=predicted.device)
        evaluator = ChunkEvaluator(
            target, batch, ROLE, classes, params.evaluate, params.perturbation, step, params.seed
        )
        scores.add(evaluator.score(method, Attempt(maps[own].to(batch.x.device), {})))
    tables = scores.tables()
    summary = summarise(ctx, method, tables)
    with rebuild(out) as fresh:
        for name, table in tables.items():
            save_table(table, fresh / f"{name}.parquet")
        curves = {"/".join(key): np.concatenate(parts, axis=1) for key, parts in scores.curves.items()}
        save_arrays(curves | {"fractions": scores.fractions}, fresh / "curves.npz")
        atomic_json(fresh / "summary.json", summary)
    srg = summary["scores"]["srg"]
    ctx.say(f"{method}: SRG {srg['mean']:.3f} [{srg['low']:.3f}, {srg['high']:.3f}] on {srg['n']} images -> {out}")
    for ours, gap in summary["against"].items():
        ctx.say(f"{ours} − {method}: {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] on {gap['n']} images")
    return summary


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
    """Means with intervals, the contract, and paired differences to AHA where `evaluate` scored the same images."""
    resamples, seed = ctx.params.evaluate.bootstrap, ctx.params.seed
    mine = per_image(tables["scores"], ROLE)
    averaged = mine.reset_index()
    summary: dict[str, Any] = {
        "method": method,
        "scores": summarise_columns(averaged, SCORES + BY_REFERENCE, resamples, seed)[method],
        "contract": list(contract_lines(ctx.params.evaluate, ctx.params.perturbation)),
        "against": {},
    }
    for name, columns in (("reference_free", REFERENCE_FREE), ("localisation", LOCALISATION)):
        if name in tables:
            summary[name] = summarise_columns(tables[name], columns, resamples, seed)[method]
    rows = comparable(ctx, tables["scores"])
    if rows is not None:
        summary["against"] = against(rows, mine.loc[method]["srg"], resamples, seed)
    return json.loads(json.dumps(summary))


def comparable(ctx: Context, mine: pd.DataFrame) -> pd.DataFrame | None:
    """Rows of `evaluate` for the same classes; None where it used other references or points, or did not run."""
    stored, curves = ctx.paths.evaluation / "scores.parquet", ctx.paths.evaluation / "curves.npz"
    if not (stored.is_file() and curves.is_file()):
        return None
    rows = pd.read_parquet(stored)
    with np.load(curves, allow_pickle=False) as arrays:
        same_points = len(arrays["fractions"]) == ctx.params.evaluate.points
    if not same_points or set(rows["reference"]) != set(mine["reference"]):
        ctx.say("outputs/evaluation has other references or points: no comparison; `aha evaluate` brings it up to date")
        return None
    classes = mine.drop_duplicates("index").set_index("index")["class"]
    return rows[(rows["role"] == ROLE) & (rows["class"] == rows["index"].map(classes))]


def against(rows: pd.DataFrame, mine: pd.Series, resamples: int, seed: int) -> dict[str, Any]:
    """AHA's first and last step minus this method, paired over common images of the same class."""
    if not len(rows) or f"{OURS}0" not in set(rows["method"]):
        return {}
    others, found = per_image(rows, ROLE), {}
    for ours in dict.fromkeys(headline(rows["method"].unique())):
        theirs = others.loc[ours]["srg"]
        common = theirs.index.intersection(mine.index)
        result = paired_difference(theirs.loc[common], mine.loc[common], resamples, seed)
        found[ours] = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in vars(result).items()
        }
    return found
