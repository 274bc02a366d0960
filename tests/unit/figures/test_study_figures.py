"""Figures of the studies hold the tables' numbers."""

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from aha_core.figures import (
    marker_strip_figure,
    sanity_figure,
    shortcut_figure,
    tradeoff_figure,
    transfer_figure,
    units_figure,
)
from aha_core.figures.style import AHA_COLOUR


def ours(axes):
    return next(line for line in axes.lines if to_hex(line.get_color()) == AHA_COLOUR)


def test_shortcut_has_a_panel_for_each_question():
    rows = [
        {"target": target, "method": method, "steps": step, "energy": 0.1 * step, "energy_low": 0.0, "energy_high": 0.5,
         "control_energy": 0.05, "found": 0.5, "found_low": 0.4, "found_high": 0.6, "false_alarms": 0.1, "auroc": 0.9,
         "top_drop": 0.3, "drop": 0.4}
        for target in ("poisoned", "clean") for method, steps in (("aha", 3), ("chefer", 1)) for step in range(steps)
    ]  # fmt: skip
    figure = shortcut_figure(pd.DataFrame(rows))
    assert len(figure.axes) == 4
    np.testing.assert_allclose(ours(figure.axes[0]).get_ydata(), [0.0, 0.1, 0.2])
    labels = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert "without the marker itself" in labels and "Chefer" in labels and not any("clean" in one for one in labels)


def test_transfer_has_a_panel_for_each_target():
    rows = [
        {"target": target, "method": method, "steps": step, "srg": 0.1 * step, "low": 0.0, "high": 0.3}
        for target, methods in (("original", ["aha", "chefer"]), ("further", ["aha", "fresh"]))
        for method in methods
        for step in (range(3) if method != "chefer" else range(1))
    ]
    figure = transfer_figure(pd.DataFrame(rows))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["original", "further"]
    np.testing.assert_allclose(ours(figure.axes[1]).get_ydata(), [0.0, 0.1, 0.2])
    assert len(figure.legends[0].get_texts()) == 3


def test_sanity_compares_methods_over_the_cascade():
    rows = [
        {"method": method, "depth": depth, "group": f"blocks.{3 - depth}"}
        | {f"{name}{end}": value for name in ("spearman", "ssim") for end in ("", "_low", "_high")}
        for method, value in (("aha", 0.2), ("paper", 1.0), ("chefer", 0.5))
        for depth in (1, 2, 3)
    ]
    figure = sanity_figure(pd.DataFrame(rows))
    left, right = figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["blocks.2", "blocks.1", "blocks.0"]
    np.testing.assert_allclose(ours(left).get_ydata(), [0.2] * 3)
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["AHA, one pass", "paper preset, one pass", "Chefer"]


def test_tradeoff_has_lines_over_passes_and_over_time():
    def row(method, setting, passes, srg, steps=None, masks=None):
        return {"method": method, "setting": setting, "steps": steps, "masks": masks, "passes": passes, "srg": srg,
                "seconds_on_this_machine": passes / 100, "low": srg - 0.1, "high": srg + 0.1}  # fmt: skip

    table = pd.DataFrame(
        [row("aha", f"S = {s}", 1 + 18 * s * t, 0.3 + 0.1 * t, steps=t) for s in (1, 3) for t in range(3)]
        + [row("rise", "", n, n / 8000, masks=n) for n in (200, 4000)]
        + [row("greedy", "7 x 7 patches", 2450, 0.6), row("chefer", "", 3, 0.2)]
    )
    figure = tradeoff_figure(table)
    left, right = figure.axes
    assert left.get_xscale() == right.get_xscale() == "log"
    for axes, unit in ((left, 1), (right, 100)):
        handles, labels = axes.get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        assert list(by_label) == ["AHA, S = 1", "AHA, S = 3", "RISE", "Greedy order, 7 x 7 patches", "Chefer"]
        np.testing.assert_allclose(by_label["AHA, S = 3"].get_xdata(), np.array([1, 55, 109]) / unit)
        np.testing.assert_allclose(by_label["AHA, S = 3"].get_ydata(), [0.3, 0.4, 0.5])
        _, _, (bars,) = by_label["Chefer"]
        np.testing.assert_allclose(bars.get_segments()[0], [[3 / unit, 0.1], [3 / unit, 0.3]])
        assert [text.get_text() for text in axes.texts] == ["T = 0", "T = 2", "T = 2", "200 masks", "4,000 masks"]


def test_units_have_a_mark_for_each_method_and_unit():
    rows = [
        {"method": name, "unit": unit, "srg": srg, "low": srg - 0.1, "high": srg + 0.1}
        for name, start in (("chefer", 0.3), ("aha_t0", 0.4))
        for unit, srg in (
            ("pixels", start),
            ("patches", start + 0.1),
            ("shifted", start + 0.05),
            ("scattered", start - 0.1),
        )
    ]
    figure = units_figure(pd.DataFrame(rows))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Chefer", "AHA (one pass)"]
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["pixels", "the classifier's patches", "cells half a patch aside", "scattered pixels"]
    for handle, expected in zip(handles, ([0.3, 0.4], [0.4, 0.5], [0.35, 0.45], [0.2, 0.3]), strict=True):
        np.testing.assert_allclose(np.asarray(handle[0].get_xdata(), float), expected)


def test_strip_outlines_the_marker():
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 10:14] = True
    images = [np.zeros((16, 16, 3), np.uint8)] * 2
    maps = [[np.random.default_rng(0).normal(size=(16, 16))] * 3] * 2
    figure = marker_strip_figure(images, maps, (0, 1, 5), [[0.5, 0.2, 0.01]] * 2, ["a", "b"], [mask] * 2)
    assert len(figure.axes) == 8
    (outline,) = figure.axes[1].patches
    assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((9.5, 3.5), 4, 4)
    assert figure.axes[3].get_xlabel() == "marker: top 1%"
    assert figure.axes[3].get_title() == "T = 5"
