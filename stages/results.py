"""What an evaluation writes: tables, curves, maps for figures, the summary; and when it counts as failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aha_core.errors import AttributionError
from aha_core.evaluation import DIGITS, Scores
from aha_core.files import atomic_json, atomic_path, atomic_text
from aha_core.metrics import curve_fractions
from aha_core.slices import slice_scores, with_facts
from aha_core.summary import (
    baselines_by_srg,
    headline,
    refinement_curve,
    srg_table,
    summarise,
    summarise_checks,
    summarise_cost,
    summarise_failures,
    summarise_localisation,
    summarise_ranks,
    summarise_reference_free,
)
from stages.context import Context
from stages.images import evaluated
from stages.outputs import rebuild
from stages.parts import PartStore, Plan
from stages.tracking import Tracker


def collect(ctx: Context, store: PartStore, plan: Plan, size: int) -> Scores:
    """All parts in the order role, chunk, method."""
    scores = Scores(curve_fractions(ctx.params.evaluate.points, size * size)[1].numpy())
    for role in ctx.params.evaluate.classes:
        for start, names in plan.items():
            for name in names:
                scores.add(store.load(role, start, name))
    return scores


def write(
    ctx: Context,
    scores: Scores,
    checked: list[dict[str, Any]],
    left_out: dict[str, str],
    error: dict[str, float] | None,
    tracker: Tracker,
) -> dict[str, Any]:
    """All outputs of the stage; returns the summary."""
    paths, config, seed = ctx.paths, ctx.params.evaluate, ctx.params.seed
    tables = scores.tables()
    if "scores" not in tables:
        raise AttributionError(f"no method gave a usable map; the first error: {scores.failures[0]['error']}")
    rows, role = tables["scores"], config.classes[0]
    if checked:
        tables["checks"] = pd.DataFrame(checked).round(DIGITS)
    summary = compose(ctx, scores, tables) | {"not_applicable": left_out}
    if error:
        summary["precision"] = {"type": config.precision} | error
    with rebuild(paths.evaluation) as out:
        for name, table in tables.items():
            save_table(table, out / f"{name}.parquet")
        arrays = {"/".join(key): np.concatenate(parts, axis=1) for key, parts in scores.curves.items()}
        save_arrays(arrays | {"fractions": scores.fractions}, out / "curves.npz")
        places = np.array(evaluated(ctx, "test")[1][: config.gallery])
        maps = {key: np.concatenate(parts) for key, parts in scores.gallery.items()}
        save_arrays(maps | {"places": places}, out / "gallery.npz")
        facts = with_facts(rows[rows["role"] == role], tables.get("localisation"))
        sliced = [slice_scores(facts, column, config.bootstrap, seed) for column in config.slices if column in facts]
        if sliced:
            atomic_text(out / "slices.csv", pd.concat(sliced).to_csv(index=False, lineterminator="\n"))
    atomic_json(paths.metrics / "evaluation.json", summary)
    atomic_json(paths.metrics / "scores.json", headline_scores(summary["scores"][role]))
    atomic_text(paths.plots / "curves.csv", scores.mean_curves().to_csv(index=False, lineterminator="\n"))
    steps = refinement_curve(rows, config.bootstrap, seed)
    atomic_text(paths.plots / "refinement.csv", steps.to_csv(index=False, lineterminator="\n"))
    runtime = runtime_table(scores.cost)
    timings = paths.state / "runtime.csv"  # belongs to this machine: no output of the stage
    atomic_text(timings, runtime.to_csv(index=False, lineterminator="\n"))
    tracker.log_metrics(tracked(summary["scores"][role], runtime))
    tracker.log_files([paths.metrics / "evaluation.json", paths.evaluation / "scores.parquet", timings], "evaluation")
    chosen, last = summary["scores"][role], steps.iloc[-1]
    best = [f", best baseline {chosen[name]['srg']['mean']:.3f} ({name})" for name in baselines_by_srg(chosen)[:1]]
    ctx.say(
        f"SRG on {rows['index'].nunique()} images: AHA {steps.iloc[0].srg:.3f} in one pass, "
        f"{last.srg:.3f} after {int(last.step)} steps" + "".join(best)
    )
    for method, entry in summary.get("failures", {}).items():
        ctx.say(f"{method} failed on {entry['failed']} of {entry['of']} images: {entry['example']}")
    return summary


def headline_scores(scores: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The few numbers that `dvc metrics diff` and `dvc exp show` compare: AHA's first and last step, best baseline."""
    first, last = headline(scores)
    shown = {"one_pass": first, "refined": last}
    if baselines := baselines_by_srg(scores):
        shown["best_baseline"] = baselines[0]
    return {
        label: {score: scores[name][score]["mean"] for score in ("srg", "deletion", "insertion")}
        for label, name in shown.items()
    }


def compose(ctx: Context, scores: Scores, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """The summary that metrics/evaluation.json holds; tables of one class role are those of the first."""
    config, seed, role = ctx.params.evaluate, ctx.params.seed, ctx.params.evaluate.classes[0]
    first = {name: table[table["role"] == role] for name, table in tables.items() if "role" in table}
    summary: dict[str, Any] = {
        "scores": summarise(tables["scores"], config.bootstrap, seed),
        "ranks": summarise_ranks(srg_table(tables["scores"], role), config.bootstrap, seed),
        "passes_per_map": summarise_cost(scores.cost),
    }
    if "reference_free" in first:
        summary["reference_free"] = summarise_reference_free(first["reference_free"], config.bootstrap, seed)
    if "localisation" in first:
        summary["localisation"] = summarise_localisation(first["localisation"], config.bootstrap, seed)
    if "checks" in tables:
        summary["checks"] = summarise_checks(tables["checks"], config.bootstrap, seed)
    if scores.failures:
        summary["failures"] = summarise_failures(scores.failures, scores.maps_per_method())
    return summary


def check_failures(summary: dict[str, Any], bound: float) -> None:
    """Raise AttributionError where a method failed on a larger share of its images than the bound, or in a check."""
    for method, entry in summary.get("failures", {}).items():
        if entry["failed"] > bound * entry["of"]:
            raise AttributionError(
                f"{method} gave no usable map for {entry['failed']} of {entry['of']} images, more than "
                f"evaluate.max_failed = {bound:g} allows ({entry['example']}); all results are written; the same "
                f"command tries the failed ones again, or drop {method} from evaluate.methods"
            )
    for method, entry in summary.get("checks", {}).items():
        if "failed" in entry:
            raise AttributionError(
                f"the checks of {method} failed ({entry['failed']}); all results are written; the same command tries "
                "them again, or drop the method from evaluate.checks.methods"
            )


def tracked(scores: dict[str, Any], runtime: pd.DataFrame) -> dict[str, float]:
    """Metrics for MLflow: scores with intervals, and per map seconds and peak memory, which belong to this machine."""
    metrics = {
        f"{score}/{method}{ending}": values[score][bound]
        for method, values in scores.items()
        for score in ("srg", "deletion", "insertion")
        for bound, ending in (("mean", ""), ("low", ".low"), ("high", ".high"))
    }
    for row in runtime.to_dict("records"):
        metrics[f"seconds_per_map/{row['method']}"] = row["seconds_per_map"]
        if not pd.isna(row["peak_mb"]):
            metrics[f"peak_mb/{row['method']}"] = row["peak_mb"]
    return metrics


def runtime_table(costs: dict[str, list[dict[str, float]]]) -> pd.DataFrame:
    """One row per method: maps, seconds per map, peak MB of a chunk, exact passes through the target per map."""
    rows = []
    for method, parts in costs.items():
        maps = sum(part["maps"] for part in parts)
        peaks = [part["peak_bytes"] for part in parts if part["peak_bytes"] is not None]
        rows.append(
            {"method": method, "maps": maps, "seconds_per_map": sum(part["seconds"] for part in parts) / maps}
            | {"peak_mb": max(peaks) / 1e6 if peaks else None}
            | {name: sum(part[name] for part in parts) / maps for name in ("forward", "gradients")}
        )
    return pd.DataFrame(rows, columns=["method", "maps", "seconds_per_map", "peak_mb", "forward", "gradients"]).round(4)


def save_table(table: pd.DataFrame, file: Path) -> None:
    with atomic_path(file) as temporary:
        table.to_parquet(temporary, index=False)


def save_arrays(arrays: dict[str, np.ndarray], file: Path) -> None:
    with atomic_path(file) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
