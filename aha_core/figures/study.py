"""Figures of the relaxation study: correlation with the hard scores, and the scores that settings end with."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from aha_core.figures.benchmarks import RELAXATION_COLOURS
from aha_core.figures.style import AHA_COLOUR, INK, MUTED, RULE, new_figure, plain


def correlation_figure(by_tau: pd.DataFrame, annealing: pd.DataFrame) -> Figure:
    """Correlation of soft with hard scores: left over tau for finished maps, right along a training.

    Args:
        by_tau: columns method, tau, scores; annealing: columns preset, progress, scores.
    """
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    plain(left, "Finished maps", "edge width τ, standard deviations", "correlation of soft with hard scores")
    for method, rows in by_tau.groupby("method", sort=False):
        colour = RELAXATION_COLOURS[str(method)]
        left.plot(rows.tau, rows.scores, marker="o", markersize=3.5, color=colour, label=str(method))
    left.set_xscale("log")
    left.set_xticks(sorted(by_tau.tau.unique()), [f"{tau:g}" for tau in sorted(by_tau.tau.unique())])
    left.minorticks_off()
    left.invert_xaxis()
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    plain(right, "Along a training", "share of the steps", "")
    for colour, (preset, rows) in zip((AHA_COLOUR, INK), annealing.groupby("preset", sort=False), strict=False):
        right.plot(rows.progress, rows.scores, marker="o", markersize=3.5, color=colour, label=str(preset))
    right.axhline(0.98, color=MUTED, linestyle=":", linewidth=1)
    right.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right")
    return figure


def settings_figure(table: pd.DataFrame, score: str) -> Figure:
    """Paired difference of every setting's score from the default's, with its 95 % interval, by what was varied.

    Args:
        score: what `srg` is, e.g. "held-out SRG in one pass".
        table: columns family, setting, default, srg, difference, difference_low, difference_high (NaN for the default).
    """
    families = table.family.unique()
    heights = [len(table[table.family == family]) + 1.0 for family in families]
    figure = new_figure(7.6, 0.27 * sum(heights) + 0.6)
    panels = figure.subplots(len(families), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)
    for axes, family in zip(panels[:, 0], families, strict=True):
        rows = table[table.family == family].iloc[::-1].reset_index(drop=True)
        last = family == families[-1]
        plain(axes, str(family), f"{score}, difference from the default" if last else "", "")
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color=AHA_COLOUR, linewidth=1)
        for place, row in rows.iterrows():
            if row.default:
                axes.plot([0], [place], marker="o", markersize=6, color=AHA_COLOUR)
                continue
            axes.plot([row.difference_low, row.difference_high], [place, place], color=INK, linewidth=1.6)
            axes.plot([row.difference], [place], marker="o", markersize=5, color=INK)
        labels = [f"{row.setting}   {row.srg:.3f}" for row in rows.itertuples()]
        axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    return figure
