"""Critical-difference diagram: methods on an axis of mean ranks; a bar joins those that the tests do not separate."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from aha_core.figures.style import AHA_COLOUR, INK, MUTED, is_aha, method_label, new_figure

LINE = 0.26  # inches per label


def critical_difference_figure(
    methods: Sequence[str], mean_ranks: Sequence[float], groups: Sequence[Sequence[int]]
) -> Figure:
    """The diagram; rank 1, the best, is at the left.

    Args:
        groups: places of methods that cannot be told apart (`aha_core.metrics.ranks.critical_difference`).
    """
    order = sorted(range(len(methods)), key=lambda place: mean_ranks[place])
    half = -(-len(order) // 2)
    figure = new_figure(8.4, 0.9 + LINE * (half + 0.6 * len(groups)))
    axes = figure.subplots()
    low, high = 1.0, float(max(len(methods), 2))
    depth = 0.35 * len(groups) + 0.6
    axes.set_xlim(low - 0.42 * (high - low), high + 0.42 * (high - low))
    axes.set_ylim(-depth - half, 1.3)
    axes.axis("off")
    axes.plot([low, high], [0, 0], color=INK, lw=1.2)
    for tick in range(1, int(high) + 1):
        axes.plot([tick, tick], [0, 0.15], color=INK, lw=1)
        axes.text(tick, 0.3, str(tick), ha="center", va="bottom", fontsize=8.5, color=MUTED)
    for line, group in enumerate(groups):
        ranks = [mean_ranks[place] for place in group]
        y = -0.35 * (line + 1)
        axes.plot([min(ranks) - 0.03, max(ranks) + 0.03], [y, y], color=INK, lw=3.2, solid_capstyle="butt")
    for place, method in enumerate(order):
        left = place < half
        row = place if left else len(order) - 1 - place
        y = -depth - row
        edge = low - 0.06 * (high - low) if left else high + 0.06 * (high - low)
        rank = mean_ranks[method]
        colour = AHA_COLOUR if is_aha(methods[method]) else INK
        axes.plot([rank, rank, edge], [0, y, y], color=colour, lw=0.9)
        label = (
            f"{method_label(methods[method])}  {rank:.2f}" if left else f"{rank:.2f}  {method_label(methods[method])}"
        )
        axes.text(
            edge - 0.015 * (high - low) if left else edge + 0.015 * (high - low), y, label,
            ha="right" if left else "left", va="center", fontsize=8.5, color=colour,
        )  # fmt: skip
    return figure
