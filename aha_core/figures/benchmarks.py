"""Figures of the benchmarks: cost and fidelity over the number of cells, quality over training time."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aha_core.figures.style import AHA_COLOUR, INK, MUTED, new_figure, plain

RELAXATION_COLOURS = {
    "soft_topk": AHA_COLOUR, "lapsum": "#0072b2", "transport": "#009e73", "gumbel_sinkhorn": INK, "sinkhorn": "#7b5ea7",
    "softsort": "#b8860b", "neuralsort": "#cc79a7",
}  # fmt: skip


def ranking_figure(table: pd.DataFrame) -> Figure:
    """Time and memory per image, |soft - hard| and gradient agreement of each relaxation over N, at its lowest tau.

    Args:
        table: rows of `aha_core.benchmarks.ranking.benchmark`.
    """
    measured = table[table.tau == table.tau.min()].dropna(subset=["seconds"])
    measured = measured.assign(
        milliseconds=1000 * measured.seconds / measured.batch, mb=(measured.peak_mb / measured.batch).clip(lower=0.01)
    )
    panels = [
        ("milliseconds", "Time per image", "ms, forward + backward", True),
        ("mb", "Peak memory per image", "MB", True),
        ("soft_hard", "Distance from the ranking", "mean |soft − hard|", False),
    ]
    if "cosine" in measured and measured.cosine.notna().any():
        panels.append(("cosine", "Agreement with the hard gradient", "cosine", False))
    figure = new_figure(4.1 * len(panels), 4.2)
    for axes, (column, title, unit, logarithmic) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        plain(axes, title, "cells N", unit)
        axes.set_xscale("log")
        if logarithmic:
            axes.set_yscale("log")
        for method, rows in measured.dropna(subset=[column]).groupby("method", sort=False):
            axes.plot(
                rows.cells,
                rows[column],
                marker="o",
                markersize=4,
                color=RELAXATION_COLOURS[str(method)],
                label=str(method),
            )
        if column == "cosine":
            ceiling = measured.dropna(subset=["ceiling"]).groupby("cells").ceiling.max()
            axes.plot(ceiling.index, ceiling, color=MUTED, linestyle=":", label="ceiling of the estimate")
            axes.set_ylim(0, 1)
        _cells(axes, sorted({int(count) for count in measured.cells}))
    figure.axes[0].legend(frameon=False, fontsize=8.5, labelcolor=INK)
    if "cosine" in [panel[0] for panel in panels]:
        lines, labels = figure.axes[-1].get_legend_handles_labels()
        figure.axes[-1].legend(lines[-1:], labels[-1:], frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _cells(axes: Axes, counts: list[int]) -> None:
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()


def quality_figure(table: pd.DataFrame, labels: dict[str, str]) -> Figure:
    """Held-out SRG with its 95 % band over training time, one line per preset.

    Args:
        table: rows of `aha_core.benchmarks.training.quality_over_time` with a column preset.
        labels: preset to legend.
    """
    figure = new_figure(7.2, 4.2)
    axes = plain(figure.subplots(), "Held-out faithfulness over training time", "minutes of training", "SRG, one pass")
    colours = (AHA_COLOUR, INK, "#0072b2")
    for colour, (preset, rows) in zip(colours, table.groupby("preset", sort=False), strict=False):
        minutes = rows.seconds / 60
        axes.plot(minutes, rows.srg, marker="o", markersize=3.5, color=colour, label=labels[str(preset)])
        axes.fill_between(minutes, rows.low, rows.high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    return figure
