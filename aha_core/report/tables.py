"""The numbers beside the main table: from an evaluation's summary to plain tables, for HTML and Markdown alike.

Each cell is a text: mean [low, high] of the 95 % bootstrap interval. What does not exist has no cell text but a dash,
never a zero. Methods come in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aha_core.figures.style import method_label
from aha_core.report.content import ReportTable

DASH = "–"
_MEASURES = {
    "pos": "POS ↓", "neg": "NEG ↑", "pos_neg": "NEG − POS ↑",
    "road": "ROAD ↑", "road_accuracy": "ROAD accuracy ↑", "mas_deletion": "MAS del. ↓",
    "mas_insertion": "MAS ins. ↑", "mas": "MAS ↑", "saco": "SaCo ↑", "single_deletion": "Single deletion ↑",
    "gini": "Gini",
}  # fmt: skip
_PLACES = {
    "pointing": "Pointing ↑", "energy": "Energy ↑", "rank_accuracy": "Rank acc. ↑", "best_iou": "IoU best ↑",
    "mean_iou": "IoU mean ↑", "average_precision": "AP ↑", "boundary": "Boundary F ↑", "area": "Object area",
}  # fmt: skip


_NOTES = {
    "statistics": "Difference: AHA in one pass minus the method, paired by image; p of Wilcoxon's test, "
    "Holm-corrected; d_z = mean / standard deviation of the differences. Rank of the mean SRG over bootstrap "
    "resamples of the images, and how often it is the first.",
    "measures": "Measures that AHA was not trained for; what they are is under “What is measured”.",
    "localisation": "Photographs put objects in the centre: compare with Centre and with the object's area.",
    "checks": "Few images. Grid pointing: energy in the right cell of a mosaic; hit: its maximum there. "
    "Sanity: likeness of the map to that of the fully randomised target, which must be near 0.",
    "cost": "Counted: images that entered the target, images whose class score was differentiated. Seconds and "
    "memory per map, which belong to a machine, are in MLflow.",
}


def summary_tables(summary: Mapping[str, Any], role: str, methods: Sequence[str]) -> tuple[ReportTable, ...]:
    """Every table that the summary has numbers for.

    Args:
        summary: metrics/evaluation.json.
        role: whose scores are shown.
        methods: in the order of the rows.
    """
    tables = (
        _main(summary, role, methods), _measures(summary, role, methods), _localisation(summary, methods),
        _localisation(summary, methods, off_centre=True), _checks(summary), _cost(summary, methods),
    )  # fmt: skip
    return tuple(table for table in tables if table.rows)


def _main(summary: Mapping[str, Any], role: str, methods: Sequence[str]) -> ReportTable:
    scores, ranks = summary["scores"][role], summary["ranks"]["methods"]
    rows = []
    for method in methods:
        own, rank = scores[method], ranks.get(method)
        against = own.get("aha_t0_minus_this")
        effect = DASH if not against or against["effect"] is None else f"{against['effect']:+.2f}"
        compared = [f"{against['mean']:+.3f}", f"{against['p_holm']:.2g}", effect] if against else [DASH] * 3
        first = f"{rank['first']:.0%}" if rank else DASH
        place = f"{rank['rank']:g} [{rank['low']:g}, {rank['high']:g}]" if rank else DASH
        rows.append([*(_cell(own, name) for name in ("srg", "deletion", "insertion")), *compared, place, first])
    return ReportTable(
        "statistics", "Statistics", _NOTES["statistics"],
        ("SRG ↑", "Deletion ↓", "Insertion ↑", "Difference", "p", "d_z", "Rank", "First"), _named(methods, rows),
    )  # fmt: skip


def _measures(summary: Mapping[str, Any], role: str, methods: Sequence[str]) -> ReportTable:
    both = {
        method: {**summary["scores"][role][method], **summary.get("reference_free", {}).get(method, {})}
        for method in methods
    }
    columns = [name for name in _MEASURES if any(name in one for one in both.values())]
    rows = [[_cell(both[method], name) for name in columns] for method in methods] if columns else []
    heads = tuple(_MEASURES[name] for name in columns)
    return ReportTable("measures", "Beyond the optimised metric", _NOTES["measures"], heads, _named(methods, rows))


def _localisation(summary: Mapping[str, Any], methods: Sequence[str], off_centre: bool = False) -> ReportTable:
    every = summary.get("localisation", {})
    known = {m: every[m].get("off_centre", {}) if off_centre else every[m] for m in methods if m in every}
    known = {method: values for method, values in known.items() if values}
    columns = [name for name in _PLACES if any(name in one for one in known.values())]
    rows = [[_cell(values, name) for name in columns] for values in known.values()]
    where = "on objects away from the centre" if off_centre else "on all objects"
    return ReportTable(
        "off-centre" if off_centre else "localisation", f"Localisation {where}",
        _NOTES["localisation"], tuple(_PLACES[name] for name in columns), _named(list(known), rows),
    )  # fmt: skip


_OTHER_CHECKS = ("spearman", "ssim", "failed", "skipped")


def _checks(summary: Mapping[str, Any]) -> ReportTable:
    checks = summary.get("checks", {})
    plain = [n for n in dict.fromkeys(c for one in checks.values() for c in one) if n not in _OTHER_CHECKS]
    rows = []
    for one in checks.values():
        last = [
            _cell({"last": list(one[name].values())[-1]}, "last") if name in one else DASH
            for name in ("spearman", "ssim")
        ]
        rows.append([*(_cell(one, name) for name in plain), *last, one.get("failed", "")])
    names = {"max_sensitivity": "Max-sensitivity ↓"}
    columns = [names.get(name, _grid_name(name)) for name in plain]
    return ReportTable(
        "checks", "Checks", _NOTES["checks"],
        (*columns, "Sanity: Spearman ↓", "Sanity: SSIM ↓", "Failed"), _named(list(checks), rows),
    )  # fmt: skip


def _grid_name(check: str) -> str:
    """grid_2x2: Grid pointing 2 × 2 ↑; grid_2x2_rank, grid_2x2_hit: with that word."""
    return check.replace("grid_", "Grid pointing ").replace("x", " × ").replace("_", " ") + " ↑"


def _cost(summary: Mapping[str, Any], methods: Sequence[str]) -> ReportTable:
    costs = summary.get("passes_per_map", {})
    shown = [method for method in methods if method in costs]
    rows = [[f"{costs[method]['forward']:g}", f"{costs[method]['gradients']:g}"] for method in shown]
    return ReportTable(
        "cost", "Cost of a map", _NOTES["cost"], ("Forward passes", "Gradients"),
        _named(shown, rows),
    )  # fmt: skip


def markdown(tables: Sequence[ReportTable], notes: Sequence[str] = (), contract: Sequence[str] = ()) -> str:
    """The tables as GitHub Markdown, then notes and the metric contract."""
    parts = []
    for table in tables:
        head = ["Method", *table.columns]
        lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(table.columns)}"]
        lines += [
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (name, *cells))} |"
            for name, cells in table.rows
        ]
        parts.append("\n".join([f"## {table.title}", "", table.note, "", *lines]))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    if contract:
        parts.append("\n".join(["## Metric contract", "", *(f"- {line}" for line in contract)]))
    return "\n\n".join(parts) + "\n"


def _named(methods: Sequence[str], rows: list[list[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (
        tuple((method_label(method), tuple(cells)) for method, cells in zip(methods, rows, strict=True)) if rows else ()
    )


def _cell(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return DASH
    digits = 1 if name in ("pos", "neg", "pos_neg") else 3
    one = values[name]
    return f"{one['mean']:.{digits}f} [{one['low']:.{digits}f}, {one['high']:.{digits}f}]"
