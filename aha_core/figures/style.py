"""Names, colours and small conventions that all figures share.

Colours are Okabe & Ito's, which people with colour-blindness can tell apart; AHA alone is vermilion and thick, floors
are grey. Figures are built with matplotlib's objects, never its global state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2430", "#6b7280", "#d9dce3"
AHA_COLOUR = "#d55e00"
_PALETTE = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#8c6d1f", "#7b5ea7", "#2f4b3c", "#b8860b")
_FLOORS = ("random", "centre", "sobel")
_LABELS = {
    "integrated_gradients": "Integrated Gradients", "saliency": "Gradient", "input_x_gradient": "Input × gradient",
    "smoothgrad": "SmoothGrad", "gradient_shap": "GradientSHAP", "grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "LayerCAM", "score_cam": "Score-CAM", "kernel_shap": "Kernel SHAP", "lime": "LIME",
    "extremal": "Extremal masks", "greedy": "Greedy order", "rollout": "Attention rollout", "chefer": "Chefer",
    "legrad": "LeGrad", "rise": "RISE", "fastshap": "FastSHAP",
    "aha": "AHA", "aha_hybrid": "AHA (hybrid)",
    "random": "Random", "centre": "Centre", "sobel": "Sobel edges",
}  # fmt: skip


@dataclass(frozen=True)
class LineStyle:
    """How a method looks in line plots."""

    colour: str
    width: float
    dash: str
    layer: int


def is_aha(method: str) -> bool:
    """Whether a method name is AHA itself: aha, aha_hybrid, or aha_tT after T refinement steps."""
    return method == "aha" or method.startswith("aha_")


def refinement_step(method: str) -> int | None:
    """T of aha_tT, else None."""
    digits = method.removeprefix("aha_t")
    return int(digits) if method.startswith("aha_t") and digits.isdigit() else None


def method_label(method: str) -> str:
    """The name that people read: aha_t5 becomes AHA (5 steps), grad_cam Grad-CAM."""
    step = refinement_step(method)
    if step is not None:
        return "AHA (one pass)" if step == 0 else f"AHA ({step} step{'s' if step > 1 else ''})"
    return _LABELS.get(method, method.replace("_", " ").capitalize())


def line_styles(methods: list[str]) -> dict[str, LineStyle]:
    """A style for each method: AHA stands out, dashed in one pass, dash-dotted hybrid; floors are grey and dotted."""
    styles: dict[str, LineStyle] = {}
    others = [method for method in methods if not is_aha(method) and method not in _FLOORS]
    dashes = ("-", "--", "-.")
    for method in methods:
        if is_aha(method):
            dash = "-." if method == "aha_hybrid" else "--" if refinement_step(method) == 0 else "-"
            styles[method] = LineStyle(AHA_COLOUR, 2.6, dash, 5)
        elif method in _FLOORS:
            place = _FLOORS.index(method)
            styles[method] = LineStyle("#9aa1ad", 1.4, (":", "-.", "--")[place], 2)
        else:
            place = others.index(method)
            dash = dashes[place // len(_PALETTE) % len(dashes)]
            styles[method] = LineStyle(_PALETTE[place % len(_PALETTE)], 1.5, dash, 3)
    return styles


def new_figure(width: float, height: float) -> Figure:
    """A white figure in inches with automatic layout."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, title: str, x_label: str, y_label: str) -> Axes:
    """Line plot axes: title at the left, light horizontal rules, no box."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x_label, fontsize=9.5, color=INK)
    axes.set_ylabel(y_label, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=0, pad=5)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    return axes


def picture(axes: Axes, image: Any) -> Axes:
    """Axes that show one image without ticks or frame; small images keep their pixels sharp."""
    axes.imshow(image, interpolation="nearest" if image.shape[0] < 160 else "antialiased", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """PNG bytes; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
