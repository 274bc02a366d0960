"""Figures have the expected axes and content, and never touch matplotlib's global state."""

from __future__ import annotations

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from aha_core.figures import (
    critical_difference_figure,
    curves_figure,
    gallery_figure,
    hero_figure,
    method_label,
    srg_by_step_figure,
    strip_figure,
    to_png,
    training_curve_figure,
)
from aha_core.figures.style import AHA_COLOUR, line_styles

FRACTIONS = np.linspace(0, 1, 5)


@pytest.fixture
def images():
    return list(np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8))


def maps(count=3):
    return list(np.random.default_rng(1).normal(size=(count, 16, 16)))


def shown(figure):
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_images()]


def size(png):
    with Image.open(io.BytesIO(png)) as image:
        return image.size, np.asarray(image.convert("L")).std()


def test_curves():
    falling, rising = np.tile(1 - FRACTIONS, (4, 1)), np.tile(FRACTIONS, (4, 1))
    flat = np.full((4, 5), 0.5)
    figure = curves_figure({"random": (FRACTIONS, flat, flat), "aha_t2": (FRACTIONS, falling, 1 - falling**2)})
    left, right = figure.axes
    assert "lower is better" in left.get_title(loc="left")
    assert "higher is better" in right.get_title(loc="left")
    ours = next(line for line in left.lines if to_hex(line.get_color()) == AHA_COLOUR)
    np.testing.assert_allclose(ours.get_ydata(), falling[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    area = np.trapezoid(1 - falling[0] ** 2, FRACTIONS) - 0.5
    assert labels == [f"AHA (2 steps)  {area:+.3f}", "Random  +0.000"]
    assert rising.shape == falling.shape
    (width, height), contrast = size(to_png(figure))
    assert (width, height) == (1680, 704)
    assert contrast > 10


def test_bands_are_95_percent_intervals_of_the_mean():
    values = np.array([[0.0] * 5, [1.0] * 5])
    figure = curves_figure({"aha": (FRACTIONS, values, values)})
    vertices = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    half = 1.96 * values[:, 0].std(ddof=1) / np.sqrt(2)
    assert vertices.max() == pytest.approx(0.5 + half)
    assert vertices.min() == pytest.approx(0.5 - half)


def test_one_image_has_no_band():
    one = np.linspace(1, 0, 5)[None]
    curves_figure({"aha": (FRACTIONS, one, one)}).canvas.draw()


def test_training_curve_has_a_panel_per_recorded_quantity():
    rows = [{"step": step, "loss": 1 / (1 + step), "deletion_auc": 0.3, "lr": 0.1} for step in range(30)]
    figure = training_curve_figure(rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["Loss", "Deletion AUC", "Learning rate"]
    with pytest.raises(ValueError, match="no known quantity"):
        training_curve_figure([{"step": 1}])


def test_training_curve_of_one_point():
    training_curve_figure([{"step": 1, "loss": 2.0}]).canvas.draw()


def test_srg_by_step():
    rows = [
        {"step": t, "deletion": 0.3, "insertion": 0.6, "srg": 0.3 + t / 10, "srg_low": 0.2, "srg_high": 0.5}
        for t in range(3)
    ]
    figure = srg_by_step_figure(rows, {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["AHA", "B +0.400", "D +0.300", "C +0.200"]
    assert len(srg_by_step_figure(rows).axes[0].lines) == 1


def test_gallery(images):
    figure = gallery_figure(images, {"aha_t0": maps(), "rise": maps()}, ["cat", "<dog>", "emu"])
    assert len(shown(figure)) == 9
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "AHA\n(one pass)", "RISE"]
    assert figure.axes[3].get_xlabel() == "<dog>"
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array(), images[0])
    assert size(to_png(figure))[1] > 10


def test_names_are_text_and_no_formula(images):
    names = ["$10_bill_$ 0.25", "$x", "$$"]
    for figure in (
        gallery_figure(images, {"rise": maps()}, names),
        hero_figure(images, {"rise": maps()}, names, {"rise": 0}),
    ):
        to_png(figure)
        assert [text.get_text() for text in figure.findobj(Text) if "$" in text.get_text()] == names


def test_an_image_without_a_map_says_so(images):
    figure = gallery_figure(images, {"rise": [*maps()[:1], None, None]}, ["cat", "dog", "emu"])
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["not scored"] * 2
    figure = strip_figure(images[:1], [maps(2)], [[0.1, None]])
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "SRG +0.10", ""]


def test_strip(images):
    figure = strip_figure(images[:2], [maps(4), maps(4)], np.array([[0.1, 0.2, 0.3, 0.4], [-0.1, 0, 0, 0]]))
    assert len(shown(figure)) == 10
    assert [axes.get_title() for axes in figure.axes[:5]] == ["image", "T = 0", "T = 1", "T = 2", "T = 3"]
    assert figure.axes[6].get_xlabel() == "SRG -0.10"


def test_hero_is_1600_pixels_wide(images):
    figure = hero_figure(images, {"aha_t5": maps(), "chefer": maps()}, ["a", "b", "c"], {"aha_t5": 0.5, "chefer": 0.25})
    assert len(shown(figure)) == 9
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["AHA\n(5 steps)", "SRG +0.50", "Chefer", "SRG +0.25"]
    assert size(to_png(figure))[0][0] == 1600


def test_critical_difference():
    methods, ranks = ["rise", "aha_t0", "random", "lime"], [2.1, 1.2, 3.9, 2.8]
    figure = critical_difference_figure(methods, ranks, [(0, 3)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:4] == ["1", "2", "3", "4"]
    assert set(texts[4:]) == {"AHA (one pass)  1.20", "RISE  2.10", "2.80  LIME", "3.90  Random"}
    bar = max(figure.axes[0].lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(bar.get_xdata(), [2.07, 2.83])
    assert size(to_png(figure))[1] > 0


def test_png_is_deterministic():
    rows = [{"step": step, "loss": float(step)} for step in range(3)]
    assert to_png(training_curve_figure(rows)) == to_png(training_curve_figure(rows))


def test_no_global_state():
    before = dict(matplotlib.rcParams)
    to_png(training_curve_figure([{"step": 1, "loss": 2.0}]))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_labels_and_styles():
    assert [method_label(name) for name in ("aha_t0", "aha_t1", "aha_t5", "aha", "grad_cam", "my_method")] == [
        "AHA (one pass)", "AHA (1 step)", "AHA (5 steps)", "AHA", "Grad-CAM", "My method",
    ]  # fmt: skip
    styles = line_styles(["aha_t5", "aha_t0", "random", *(f"m{i}" for i in range(20))])
    assert styles["aha_t5"].width > styles["m0"].width
    assert styles["aha_t0"].dash == "--"
    looks = {(style.colour, style.dash) for name, style in styles.items() if name.startswith("m")}
    assert len(looks) == 20
    assert AHA_COLOUR not in {style.colour for name, style in styles.items() if not name.startswith("aha")}
