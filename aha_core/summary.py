"""From stored rows to the numbers of a table: means with intervals, paired differences, refinement steps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from aha_core.metrics import bootstrap_ci, holm, paired_difference

SCORES = ("deletion", "insertion", "srg")
LOCALISATION = ("pointing", "energy", "rank_accuracy", "area")
OURS = "aha_t"  # method names aha_t0, aha_t1, … are the refinement steps


def per_image(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """Mean over references of each image: index (method, index), columns deletion, insertion, srg."""
    chosen = rows[rows["role"] == role]
    return chosen.groupby(["method", "index"], sort=False)[list(SCORES)].mean()


def summarise(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Nested summary: role, method, then score with its 95 % interval, by reference, and against AHA in one pass."""
    return {role: _summarise_role(rows, role, resamples, seed) for role in rows["role"].unique()}


def _summarise_role(rows: pd.DataFrame, role: str, resamples: int, seed: int) -> dict[str, Any]:
    images = per_image(rows, role)
    methods = list(dict.fromkeys(images.index.get_level_values("method")))
    chosen = rows[rows["role"] == role]
    table: dict[str, Any] = {}
    for method in methods:
        own = images.loc[method]
        by_reference = chosen[chosen["method"] == method].groupby("reference", sort=False)[list(SCORES)].mean()
        table[method] = {name: _interval(own[name], resamples, seed) for name in SCORES}
        table[method]["by_reference"] = {
            reference: {name: round(float(value), 4) for name, value in values.items()}
            for reference, values in by_reference.iterrows()
        }
    first, last = headline(methods)
    compared = [method for method in methods if not method.startswith(OURS) or method in (first, last)]
    for ours in dict.fromkeys((first, last)):
        _compare(table, images, ours, [method for method in compared if method != ours], resamples, seed)
    return table


def _compare(
    table: dict[str, Any], images: pd.DataFrame, ours: str, others: list[str], resamples: int, seed: int
) -> None:
    """Paired SRG difference ours - method for every other method, Holm-corrected over them."""
    mine = images.loc[ours]["srg"]
    results = [paired_difference(mine, images.loc[other]["srg"].loc[mine.index], resamples, seed) for other in others]
    corrected = holm([result.p_value for result in results])
    for other, result, p in zip(others, results, corrected, strict=True):
        facts = {name: value for name, value in asdict(result).items() if name != "p_value"}
        table[other][f"{ours}_minus_this"] = _rounded(facts) | {"p_holm": float(f"{p:.3g}")}


def summarise_localisation(rows: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Method to pointing game, energy in the mask, rank accuracy and area share with 95 % intervals."""
    return {
        method: {name: _interval(own[name], resamples, seed) for name in LOCALISATION}
        for method, own in rows.groupby("method", sort=False)
    }


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


def refinement_steps(methods: Any) -> list[int]:
    return sorted(int(method.removeprefix(OURS)) for method in methods if method.startswith(OURS))


def _interval(values: Any, resamples: int, seed: int) -> dict[str, float]:
    return _rounded(asdict(bootstrap_ci(values, resamples, seed)))


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}
