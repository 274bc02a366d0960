"""Line plots: deletion and insertion curves, the training curve, scores over refinement steps and over cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aha_core.figures.style import AHA_COLOUR, INK, MUTED, is_aha, line_styles, method_label, new_figure, plain

Curve = tuple[Float[np.ndarray, " P"], Float[np.ndarray, "n P"], Float[np.ndarray, "n P"]]
_Z95 = 1.96  # two-sided 95 % quantile of the normal distribution
_NAMES = {
    "loss": "Loss", "deletion_auc": "Deletion AUC", "insertion_auc": "Insertion AUC", "smoothness": "Smoothness",
    "map_std": "Spread of the raw map", "gradient_norm": "Gradient norm", "lr": "Learning rate",
}  # fmt: skip


def curves_figure(curves: Mapping[str, Curve]) -> Figure:
    """Mean deletion and insertion curves with 95 % bands; the legend gives the areas.

    Args:
        curves: method to (fractions [P], deletion [n, P], insertion [n, P]), one row per image.
    """
    figure = new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    plain(left, "Deletion: lower is better", "pixels removed, most important first", "class probability")
    plain(right, "Insertion: higher is better", "pixels inserted, most important first", "")
    gain = _curve_pair(left, right, curves)
    handles, names = right.get_legend_handles_labels()
    names = [f"{name}  {gain[method]:+.3f}" for method, name in zip(gain, names, strict=True)]
    _curve_legend(figure, handles, names, "SRG (insertion − deletion area)")
    return figure


def curves_by_reference_figure(curves: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """A row of both curves for each reference image: what "removed" looks like changes them.

    Args:
        curves: reference to method to (fractions, deletion, insertion), as in `curves_figure`.
    """
    figure = new_figure(10.5, 3.1 * len(curves) + 0.3)
    panels = figure.subplots(len(curves), 2, sharex=True, sharey=True, squeeze=False)
    for (reference, own), (left, right) in zip(curves.items(), panels, strict=True):
        last = left is panels[-1][0]
        plain(left, f"Deletion, {reference}", "pixels removed" * last, "class probability")
        plain(right, f"Insertion, {reference}", "pixels inserted" * last, "")
        _curve_pair(left, right, own)
    handles, names = panels[0][1].get_legend_handles_labels()
    _curve_legend(figure, handles, names, f"best SRG first ({next(iter(curves))})")
    return figure


def _curve_pair(left: Axes, right: Axes, curves: Mapping[str, Curve]) -> dict[str, float]:
    """Draw every method's curves; returns its SRG, best first, the order of the lines."""
    styles = line_styles(list(curves))
    gain = {m: _area(f, insertion) - _area(f, deletion) for m, (f, deletion, insertion) in curves.items()}
    order = sorted(curves, key=lambda name: gain[name], reverse=True)
    for method in order:
        fractions, deletion, insertion = curves[method]
        style, label = styles[method], method_label(method)
        for axes, values in ((left, deletion), (right, insertion)):
            mean = values.mean(axis=0)
            axes.plot(fractions, mean, style.dash, color=style.colour, lw=style.width, zorder=style.layer, label=label)
            half = _Z95 * values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros_like(mean)
            opacity = 0.16 if is_aha(method) else 0.07
            axes.fill_between(fractions, mean - half, mean + half, color=style.colour, alpha=opacity, lw=0)
    for axes in (left, right):
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylim(bottom=0)
    return {method: gain[method] for method in order}


def _curve_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], title: str) -> None:
    legend = figure.legend(
        handles, names, loc="outside right center", frameon=False, fontsize=8.5, title=title, title_fontsize=8.5,
        labelcolor=INK, handlelength=2.4, labelspacing=0.7,
    )  # fmt: skip
    legend.get_title().set_color(MUTED)


def cost_figure(refined: Sequence[tuple[int, float, float]], others: Mapping[str, tuple[float, float]]) -> Figure:
    """Quality over cost: SRG over passes of the target for one map, a backward pass counted as two.

    Args:
        refined: (T, passes, SRG) of AHA after T refinement steps.
        others: method to (passes, SRG).
    """
    figure = new_figure(9.2, 4.2)
    axes = plain(figure.subplots(), "Quality over cost", "passes per map; a backward pass counts as two", "SRG")
    axes.set_xscale("symlog", linthresh=1)
    styles = line_styles(list(others))
    _, passes, scores = zip(*refined, strict=True)
    axes.plot(passes, scores, "o-", color=AHA_COLOUR, lw=2.4, ms=5, label="AHA after T steps", zorder=4)
    for step, x, y in {*refined[:2], refined[-1]}:  # later steps lie close
        axes.annotate(
            f"T={step}", (x, y), (0, 7), textcoords="offset points", fontsize=8, color=AHA_COLOUR, ha="center"
        )
    for method, (x, y) in others.items():
        axes.plot([x], [y], "D", ms=6, color=styles[method].colour, label=method_label(method))
    ticks = [0, 1, 10, 100, 1000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(-0.3, 1.6 * max(*passes, *(x for x, _ in others.values()), 10))
    axes.margins(y=0.12)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5, labelcolor=INK
    )
    return figure


def training_curve_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per recorded quantity over training steps; the noisy points and their running mean.

    Args:
        rows: points with `step` and any of loss, deletion, insertion, smoothness, lr, …; at least one.
    """
    order = [name for name in _NAMES if any(name in row for row in rows)]
    if not order:
        raise ValueError(f"no known quantity in the training curve; known: {', '.join(_NAMES)}")
    columns = min(3, len(order))
    lines = -(-len(order) // columns)
    figure = new_figure(3.5 * columns, 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(order) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, order, strict=False):
        points: list[tuple[float, float]] = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        steps, values = (np.array(part, dtype=float) for part in zip(*points, strict=True))
        plain(axes, _NAMES[name], "step", "")
        axes.plot(steps, values, color=AHA_COLOUR, lw=1.0, alpha=0.35)
        axes.plot(steps, _running_mean(values), color=AHA_COLOUR, lw=2.2)
        axes.margins(x=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def srg_by_step_figure(rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, float] | None = None) -> Figure:
    """SRG with its 95 % interval, deletion and insertion over refinement steps.

    Args:
        rows: one per step with step, deletion, insertion, srg, srg_low and srg_high.
        baselines: SRG of other methods, drawn as horizontal lines.
    """
    steps = [row["step"] for row in rows]
    figure = new_figure(9.2, 3.6)
    left, right = figure.subplots(1, 2)
    plain(left, "SRG over refinement steps", "refinement steps T", "SRG")
    low, high = ([row[name] for row in rows] for name in ("srg_low", "srg_high"))
    left.fill_between(steps, low, high, color=AHA_COLOUR, alpha=0.16, lw=0)
    left.plot(steps, [row["srg"] for row in rows], "o-", color=AHA_COLOUR, lw=2.4, ms=5, label="AHA")
    _baseline_lines(left, baselines or {})
    plain(right, "Its two parts", "refinement steps T", "area under the curve")
    for name, marker, colour in (("insertion", "^", "#009e73"), ("deletion", "v", "#0072b2")):
        hint = "higher is better" if name == "insertion" else "lower is better"
        right.plot(steps, [row[name] for row in rows], f"{marker}-", color=colour, lw=2, ms=5, label=f"{name}, {hint}")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.12)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _baseline_lines(axes: Axes, baselines: Mapping[str, float]) -> None:
    """The three best baselines as horizontal lines."""
    styles = line_styles(list(baselines))
    for method, value in sorted(baselines.items(), key=lambda item: -item[1])[:3]:
        label = f"{method_label(method)} {value:+.3f}"
        axes.axhline(value, color=styles[method].colour, lw=1.3, ls="--", label=label)


def _area(fractions: Float[np.ndarray, " P"], curves: Float[np.ndarray, "n P"]) -> float:
    return float(np.trapezoid(curves.mean(axis=0), fractions))


def _running_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Centred mean over a tenth of the points, shorter at the ends."""
    half = max(1, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
