"""Figures of the studies of finished explainers: AHA over steps, other methods beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from aha_core.figures.overlay import overlay
from aha_core.figures.style import (
    AHA_COLOUR,
    INK,
    MUTED,
    RULE,
    is_aha,
    line_styles,
    method_label,
    new_figure,
    picture,
    plain,
)

FRESH_COLOUR = "#8f2d56"  # of no baseline
MARKER_COLOUR = "#00e5ff"  # the outline of a marker: not in the maps' colours
_CELL = 1.3  # inches


def shortcut_figure(table: pd.DataFrame) -> Figure:
    """Energy, found markers, AUROC and lost probability over T, of the poisoned target, the clean one, and baselines.

    Args:
        table: rows of one group of images: target (poisoned, clean), method, and the columns of `Findings.rows`.
    """
    figure = new_figure(11.5, 7.2)
    panels = figure.subplots(2, 2).ravel()
    poisoned = table[table.target == "poisoned"]
    ours = poisoned[poisoned.method == "aha"]
    clean = table[(table.target == "clean") & (table.method == "aha")]
    shown = (
        ("energy", "control_energy", "Energy in the marker", "share of the map's positive part"),
        ("found", "false_alarms", "Found: marker in the top decile of cells", "share of the images"),
        ("auroc", None, "Marked images against their clean controls", "AUROC of the marker's rank"),
        ("top_drop", None, "Without the map's top pixels (marker's area)", "probability lost"),
    )
    for axes, (column, control, title, unit) in zip(panels, shown, strict=True):
        plain(axes, title, "refinement steps T", unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _line(axes, ours, column, AHA_COLOUR, "-", "AHA, poisoned target")
        if column != "top_drop":  # there the clean target loses its object
            _line(axes, clean, column, INK, ":", "AHA, clean target, same images")
        if control:
            axes.plot(ours.steps, ours[control], color=MUTED, ls="--", lw=1.6, label="AHA, images without marker")
        if column == "top_drop":
            axes.axhline(ours["drop"].iloc[0], color=MUTED, ls="-.", lw=1.2, label="without the marker itself")
        _levels(axes, poisoned[poisoned.method != "aha"], column)
        axes.margins(y=0.1)
    for axes in (panels[0], panels[3]):
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def transfer_figure(table: pd.DataFrame) -> Figure:
    """SRG over T for each target: the given explainer, a fresh one, baselines.

    Args:
        table: columns target, method (aha, fresh, or a baseline), steps, srg, low, high.
    """
    targets = list(table.target.unique())
    figure = new_figure(4.2 * len(targets) + 0.6, 3.9)
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, targets, strict=True):
        rows = table[table.target == name].rename(columns={"low": "srg_low", "high": "srg_high"})
        plain(axes, name, "refinement steps T", "SRG" if axes is panels[0] else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _line(axes, rows[rows.method == "aha"], "srg", AHA_COLOUR, "-", "AHA, explainer of the original target")
        _line(axes, rows[rows.method == "fresh"], "srg", FRESH_COLOUR, "-", "AHA, trained on this target")
        _levels(axes, rows[~rows.method.isin(["aha", "fresh"])], "srg")
        axes.margins(y=0.12)
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def sanity_figure(table: pd.DataFrame) -> Figure:
    """Likeness of maps to the intact target's while ever more layers are random, from the output downwards.

    Args:
        table: columns method, depth, group, and spearman and ssim with _low and _high.
    """
    groups = table.drop_duplicates("depth").sort_values("depth").group
    figure = new_figure(max(8.5, 0.7 * len(groups) + 5.0), 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    names = list(table.method.unique())
    styles = line_styles([name for name in names if name != "paper"])
    for axes, column, title in zip(panels, ("spearman", "ssim"), ("Spearman", "SSIM"), strict=True):
        plain(axes, title, "random from the output down to", "likeness to the intact target's map" * (column != "ssim"))
        for name in names:
            rows = table[table.method == name].sort_values("depth").rename(columns={"depth": "steps"})
            label = {"aha": "AHA, one pass", "paper": "paper preset, one pass"}.get(name, method_label(name))
            dash, colour = ("-", INK) if name == "paper" else (styles[name].dash, styles[name].colour)
            _line(axes, rows, column, colour, "-" if name == "aha" else dash, label)
        axes.set_xticks(range(1, len(groups) + 1), list(groups), rotation=90, fontsize=7.5)
        axes.axhline(0, color=MUTED, lw=0.8)
    panels[1].legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def tradeoff_figure(table: pd.DataFrame) -> Figure:
    """SRG over passes of the target and over seconds per map: AHA over T and RISE over N as lines, the rest as points.

    Args:
        table: columns method, setting, steps, masks, passes, seconds_on_this_machine, srg, low, high.
    """
    figure = new_figure(11.5, 5.0)
    panels = figure.subplots(1, 2, sharey=True)
    styles = line_styles(list(table.method.unique()))
    shown = (
        ("passes", "Over passes of the target", "passes per map; a backward pass counts as two", "SRG"),
        ("seconds_on_this_machine", "Over time", "seconds per map on the machine that measured", ""),
    )
    series = list(table.fillna({"setting": ""}).groupby(["method", "setting"], sort=False))
    ours = [setting for (method, setting), _ in series if method == "aha"]
    for axes, (column, title, x_label, y_label) in zip(panels, shown, strict=True):
        plain(axes, title, x_label, y_label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        for (method, setting), rows in series:
            x, colour = rows[column], styles[method].colour
            label = method_label(method) + f", {setting}" * bool(setting)
            if method not in ("aha", "rise"):
                bars = [rows.srg - rows.low, rows.high - rows.srg]
                axes.errorbar(x, rows.srg, bars, fmt="D", ms=5.5, color=colour, lw=1.4, capsize=2.5, label=label)
                continue
            rise, last = method == "rise", method == "rise" or setting == ours[-1]
            offset = (0, 9 if last and not rise else -16)
            axes.plot(x, rows.srg, ls="-" if last else ":", marker="o", ms=5, mfc=colour if last else "white",
                      color=colour, lw=2.2, label=label, zorder=5 if last else 4)  # fmt: skip
            axes.fill_between(x, rows.low, rows.high, color=colour, alpha=0.1, lw=0)
            if len(rows) == 1:
                axes.vlines(x, rows.low, rows.high, color=colour, lw=1.4)
            for place, text in _labelled(rows, first=setting == ours[0]):
                side = "left" if place and not last else "center"  # of lines that lie close
                axes.annotate(text, (x.iloc[place], rows.srg.iloc[place]), offset, textcoords="offset points",
                              fontsize=8, color=colour, ha=side, zorder=6)  # fmt: skip
        axes.margins(x=0.08, y=0.12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _labelled(rows: pd.DataFrame, first: bool) -> list[tuple[int, str]]:
    """Places of a line with their texts: AHA's last step, the one pass that its lines share once, all of RISE's."""
    if rows.steps.isna().any():
        return [(place, f"{masks:,.0f} masks") for place, masks in enumerate(rows.masks)]
    last = len(rows) - 1
    return [(place, f"T = {rows.steps.iloc[place]:.0f}") for place in sorted({0 if first else last, last})]


def marker_strip_figure(
    images: Sequence[UInt8[np.ndarray, "H W 3"]], maps: Sequence[Sequence[Float[np.ndarray, "H W"]]],
    steps: Sequence[int], ranks: Sequence[Sequence[float]], titles: Sequence[str],
    masks: Sequence[Bool[np.ndarray, "H W"]],
) -> Figure:  # fmt: skip
    """One row per image: the image, then its map at each of the steps, the marker outlined, its rank below.

    Args:
        maps, ranks: one for each image and step; masks: the markers' pixels, rectangles.
    """
    figure = new_figure(_CELL * (1 + len(steps)) + 0.1, (_CELL + 0.24) * len(images) + 0.3)
    grid = figure.subplots(len(images), 1 + len(steps), squeeze=False)
    for row, image in enumerate(images):
        picture(grid[row, 0], image).set_xlabel(titles[row], fontsize=7, color=INK, labelpad=2, parse_math=False)
        rows, columns = (np.flatnonzero(masks[row].any(axis=axis)) for axis in (1, 0))
        corner, width, height = (columns[0] - 0.5, rows[0] - 0.5), len(columns), len(rows)
        for column, one in enumerate(maps[row], start=1):
            axes = picture(grid[row, column], overlay(image, one))
            axes.add_patch(Rectangle(corner, width, height, fill=False, ec=MARKER_COLOUR, lw=1))
            axes.set_xlabel(f"marker: top {ranks[row][column - 1]:.0%}", fontsize=7, color=INK, labelpad=2)
    grid[0, 0].set_title("image, class, p", fontsize=8.5, color=MUTED)
    for column, step in enumerate(steps, start=1):
        grid[0, column].set_title(f"T = {step}", fontsize=8.5, color=AHA_COLOUR, fontweight="bold")
    return figure


def localisation_figure(table: pd.DataFrame) -> Figure:
    """Energy in the mask and pointing game of each method, the most energy on top; dashed: the objects' area.

    Args:
        table: rows with method, area, and energy and pointing with their _low and _high.
    """
    table = table.sort_values("energy")
    figure = new_figure(10, 0.36 * len(table) + 1.2)
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("energy", "Energy in the mask", "share of the map's positive part"),
        ("pointing", "Pointing game", "share of the images"),
    )
    for axes, (column, title, unit) in zip(panels, shown, strict=True):
        plain(axes, title, unit, "")
        axes.grid(axis="x", color=RULE)
        axes.grid(axis="y", visible=False)
        for place, row in enumerate(table.to_dict("records")):
            colour = AHA_COLOUR if is_aha(row["method"]) else INK
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            axes.plot((low, high), (place, place), color=colour, lw=1.6)
            axes.plot(row[column], place, "o", color=colour, ms=5)
    panels[0].axvline(table["area"].mean(), color=MUTED, ls="--", lw=1.2, label="area of the object")
    panels[0].legend(frameon=False, fontsize=8.5, labelcolor=INK)
    panels[0].set_yticks(range(len(table)), [method_label(method) for method in table["method"]])
    return figure


def units_figure(table: pd.DataFrame) -> Figure:
    """SRG of each method where pixels, the target's patches, cells half a patch aside, or scattered pixels are ranked.

    Args:
        table: columns method, unit, srg, low, high.
    """
    order = table[table.unit == "pixels"].sort_values("srg").method.tolist()
    figure = new_figure(8, 0.6 * len(order) + 1.4)
    axes = figure.subplots()
    plain(axes, "The same maps, ranked by", "SRG", "")
    axes.grid(axis="x", color=RULE)
    axes.grid(axis="y", visible=False)
    styles = {
        "pixels": ("pixels", "o", INK),
        "patches": ("the classifier's patches", "s", AHA_COLOUR),
        "shifted": ("cells half a patch aside", "D", MUTED),
        "scattered": ("scattered pixels", "x", INK),
    }
    for offset, (unit, (label, mark, colour)) in zip((0.27, 0.09, -0.09, -0.27), styles.items(), strict=True):
        rows = table[table.unit == unit].set_index("method").loc[order]
        bars = [rows.srg - rows.low, rows.high - rows.srg]
        places = [place + offset for place in range(len(order))]
        axes.errorbar(rows.srg, places, xerr=bars, fmt=mark, ms=5, color=colour, lw=1.4, label=label)
    axes.set_yticks(range(len(order)), [method_label(name) for name in order])
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, column: str, colour: str, dash: str, label: str) -> None:
    """A line over steps with its interval, where the table has one; nothing for no rows."""
    if not len(rows):
        return
    wide = colour == AHA_COLOUR
    axes.plot(rows.steps, rows[column], ls=dash, marker="o", ms=3.5, color=colour, lw=2.4 if wide else 1.6, label=label)
    if f"{column}_low" in rows:
        low, high = rows[f"{column}_low"], rows[f"{column}_high"]
        axes.fill_between(rows.steps, low, high, color=colour, alpha=0.15, lw=0)


def _levels(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Methods without steps as horizontal lines."""
    styles = line_styles(list(rows.method.unique()))
    for name, value in zip(rows.method, rows[column], strict=True):
        axes.axhline(value, color=styles[name].colour, lw=1.4, ls="--", label=method_label(name))
