"""From stored rows to the numbers of a table: means with intervals, paired differences, ranks, refinement steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from aha_core.errors import AttributionError
from aha_core.metrics import bootstrap_ci, holm, paired_difference
from aha_core.metrics.ranks import CriticalDifference, critical_difference, rank_stability

SCORES = ("deletion", "insertion", "srg")
BY_REFERENCE = ("mas_deletion", "mas_insertion", "mas", "saco", "single_deletion")
REFERENCE_FREE = ("pos", "neg", "pos_neg", "road", "road_accuracy", "gini")
LOCALISATION = (
    "pointing", "energy", "rank_accuracy", "best_iou", "mean_iou", "average_precision", "boundary", "area",
)  # fmt: skip
LEVEL = 0.05  # family-wise error of the critical-difference groups
OURS = "aha_t"  # method names aha_t0, aha_t1, … are the refinement steps
HYBRID = "aha_hybrid"  # the map of one pass, corrected by one gradient


def per_image(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """Mean over references of each image: index (method, index), columns deletion, insertion, srg and further ones."""
    chosen = rows[rows["role"] == role]
    return chosen.groupby(["method", "index"], sort=False)[_present(rows, SCORES + BY_REFERENCE)].mean()


def summarise(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Nested summary: role, method, then score with its 95 % interval, by reference, and against AHA in one pass.

    Raises AttributionError when AHA's own maps are missing.
    """
    return {role: _summarise_role(rows, role, resamples, seed) for role in rows["role"].unique()}


def _summarise_role(rows: pd.DataFrame, role: str, resamples: int, seed: int) -> dict[str, Any]:
    images = per_image(rows, role)
    methods = list(dict.fromkeys(images.index.get_level_values("method")))
    chosen = rows[rows["role"] == role]
    table: dict[str, Any] = {}
    for method in methods:
        own = images.loc[method]
        by_reference = chosen[chosen["method"] == method].groupby("reference", sort=False)[list(SCORES)].mean()
        table[method] = _intervals(own, list(images.columns), resamples, seed)
        table[method]["images"] = len(own)
        table[method]["by_reference"] = {
            reference: {name: round(float(value), 4) for name, value in values.items()}
            for reference, values in by_reference.iterrows()
        }
    first = f"{OURS}0"
    if first not in methods:
        raise AttributionError(f"no usable map of {first}; see outputs/evaluation/failures.parquet, then `aha refine`")
    compared = compared_methods(methods)
    for ours in shown_of_ours(methods):
        _compare(table, images, ours, [method for method in compared if method != ours], resamples, seed)
    return table


def compared_methods(methods: Any) -> list[str]:
    """Baselines, AHA's hybrid map, first and last refinement step, in the given order."""
    return [method for method in methods if not method.startswith(OURS) or method in headline(methods)]


def _compare(
    table: dict[str, Any], images: pd.DataFrame, ours: str, others: list[str], resamples: int, seed: int
) -> None:
    """Add the paired SRG difference ours - method to every other method's entry."""
    mine = images.loc[ours]["srg"]
    pairs = {other: (mine, images.loc[other]["srg"]) for other in others}
    for other, facts in paired_differences(pairs, resamples, seed).items():
        table[other][f"{ours}_minus_this"] = facts


def paired_differences(
    pairs: Mapping[str, tuple[pd.Series, pd.Series]], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """First minus second of each named pair over the images that both have; no entry without such an image.

    Args:
        pairs: name to two series with the image as index.

    Returns:
        Of each: mean, low and high of the 95 % bootstrap interval, effect (d_z), n, p_holm (Wilcoxon's p,
        Holm-corrected over the pairs).
    """
    results = {}
    for name, (first, second) in pairs.items():
        common = first.index.intersection(second.index)
        if len(common):
            results[name] = asdict(paired_difference(first.loc[common], second.loc[common], resamples, seed))
    corrected = holm([result.pop("p_value") for result in results.values()])
    return {
        name: _rounded(result) | {"p_holm": float(f"{p:.3g}")}
        for (name, result), p in zip(results.items(), corrected, strict=True)
    }


def baselines_by_srg(scores: dict[str, Any]) -> list[str]:
    """Baselines, the best first, of one role's summary: by the distance from AHA in one pass on the images of each.

    The distance is paired, so methods that were scored on fewer images have a place among the others.
    """
    ours = headline(scores)[0]

    def distance(method: str) -> float:
        gap = scores[method].get(f"{ours}_minus_this")
        return float(gap["mean"] if gap else scores[ours]["srg"]["mean"] - scores[method]["srg"]["mean"])

    return sorted((name for name in scores if is_baseline(name)), key=distance)


def is_baseline(method: str) -> bool:
    return not method.startswith(OURS) and method != HYBRID


def srg_table(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """SRG (mean over references) of the images that every compared method has: index image, one column per method.

    While no image is common to all, the method with the fewest is left out, the last of several.
    """
    images = per_image(rows, role)["srg"].unstack("method")
    methods = compared_methods(dict.fromkeys(rows["method"]))
    table = images[[method for method in methods if method in images]]
    while table.dropna().empty:
        table = table.drop(columns=table.notna().sum()[::-1].idxmin())
    return table.dropna()


def summarise_ranks(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Of an `srg_table`: mean rank per image, bootstrap rank with 95 % interval, share of firsts, joined groups."""
    values = table.to_numpy()
    difference = critical_difference(values, LEVEL)
    stability = rank_stability(values, resamples, seed)
    return {
        "images": len(table),
        "p_friedman": float(f"{difference.p_friedman:.3g}"),
        "methods": {
            str(method): _rounded({"mean_rank": difference.mean_ranks[place]} | asdict(stability[place]))
            for place, method in enumerate(table.columns)
        },
        "not_separated": [[str(table.columns[place]) for place in group] for group in difference.groups],
    }


def ranks_of_summary(summary: dict[str, Any]) -> tuple[list[str], CriticalDifference]:
    """Method names and the critical difference that `summarise_ranks` stored."""
    names = list(summary["methods"])
    groups = tuple(tuple(names.index(name) for name in group) for group in summary["not_separated"])
    mean_ranks = tuple(summary["methods"][name]["mean_rank"] for name in names)
    return names, CriticalDifference(mean_ranks, summary["p_friedman"], groups)


def summarise_columns(rows: pd.DataFrame, columns: tuple[str, ...], resamples: int, seed: int) -> dict[str, Any]:
    """Method to columns with 95 % intervals, of rows of one class role."""
    return {
        str(method): _intervals(own, _present(rows, columns), resamples, seed)
        for method, own in rows.groupby("method", sort=False)
    }


def summarise_reference_free(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Method to every measure with its 95 % interval, and `{ours}_minus_this`: paired differences by measure."""
    table = summarise_columns(rows, REFERENCE_FREE, resamples, seed)
    methods, measures = list(table), _present(rows, REFERENCE_FREE)
    values = {
        method: {name: own[name].dropna() for name in measures}
        for method, own in rows.set_index("index").groupby("method", sort=False)
    }
    for ours in shown_of_ours(methods):
        others = [method for method in compared_methods(methods) if method != ours]
        for name in measures:
            pairs = {other: (values[ours][name], values[other][name]) for other in others}
            for other, facts in paired_differences(pairs, resamples, seed).items():
                table[other].setdefault(f"{ours}_minus_this", {})[name] = facts
    return table


def summarise_localisation(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Method to every localisation measure with 95 % intervals; `off_centre` holds the same on that subset."""
    table = summarise_columns(rows, LOCALISATION, resamples, seed)
    away = rows[rows["off_centre"] == 1] if "off_centre" in rows else rows[:0]
    for method, values in summarise_columns(away, LOCALISATION, resamples, seed).items():
        table[method]["off_centre"] = values
    return table


def summarise_checks(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Method to check to its mean with 95 % interval, of the cascade one per randomised group; the words of others."""
    table: dict[str, Any] = {}
    for (method, check), own in rows.groupby(["method", "check"], sort=False):
        entry = table.setdefault(str(method), {})
        if check in ("failed", "skipped"):
            entry[str(check)] = "; ".join(own["detail"])
        elif check in ("spearman", "ssim"):
            groups = own.groupby("detail", sort=False)["value"]
            entry[check] = {str(group): _interval(values, resamples, seed) for group, values in groups}
        else:
            entry[check] = _interval(own["value"], resamples, seed)
    return table


def summarise_cost(costs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Exact passes through the target per map, by method."""
    return {
        method: {
            name: round(sum(part[name] for part in parts) / sum(part["maps"] for part in parts), 2)
            for name in ("forward", "gradients")
        }
        for method, parts in costs.items()
    }


def summarise_failures(failures: list[dict[str, Any]], maps_per_method: Mapping[str, int]) -> dict[str, Any]:
    """Method to the number of images without a usable map, and one of the reasons."""
    table: dict[str, Any] = {}
    for one in failures:
        method = one["method"]
        entry = table.setdefault(method, {"failed": 0, "of": maps_per_method[method], "example": one["error"]})
        entry["failed"] += 1
    return table


def refinement_curve(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """One row per refinement step: mean deletion, insertion, SRG and the SRG's interval (first role)."""
    images = per_image(rows, rows["role"].iloc[0])
    steps = refinement_steps(images.index.get_level_values("method").unique())
    table = []
    for step in steps:
        own = images.loc[f"{OURS}{step}"]
        srg = _interval(own["srg"], resamples, seed)
        table.append(
            {"step": step, "deletion": own["deletion"].mean(), "insertion": own["insertion"].mean()}
            | {"srg": srg["mean"], "srg_low": srg["low"], "srg_high": srg["high"]}
        )
    return pd.DataFrame(table).round(4)


def headline(methods: Any) -> tuple[str, str]:
    """The names of AHA in one pass and after the last refinement step."""
    return f"{OURS}0", f"{OURS}{refinement_steps(methods)[-1]}"


def shown_of_ours(methods: Any) -> list[str]:
    """AHA's names in tables: in one pass, hybrid where it was scored, after the last refinement step."""
    first, last = headline(methods)
    return list(dict.fromkeys((first, *(name for name in methods if name == HYBRID), last)))


def refinement_steps(methods: Any) -> list[int]:
    return sorted(int(method.removeprefix(OURS)) for method in methods if method.startswith(OURS))


def _intervals(rows: pd.DataFrame, columns: list[str], resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Of each column the rows that have it: slow measures are those of the first images."""
    known = {name: rows[name].dropna() for name in columns}
    return {name: _interval(values, resamples, seed) for name, values in known.items() if len(values)}


def _interval(values: Any, resamples: int, seed: int) -> dict[str, float]:
    return _rounded(asdict(bootstrap_ci(values, resamples, seed)))


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}


def _present(rows: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    return [name for name in columns if name in rows]
