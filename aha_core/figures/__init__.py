"""Figures of reports: functions from arrays to matplotlib figures, without global state."""

from aha_core.figures.benchmarks import quality_figure, ranking_figure
from aha_core.figures.critical_difference import critical_difference_figure
from aha_core.figures.lines import (
    cost_figure,
    curves_by_reference_figure,
    curves_figure,
    srg_by_step_figure,
    training_curve_figure,
)
from aha_core.figures.overlay import diverging, overlay
from aha_core.figures.pictures import gallery_figure, hero_figure, soft_masks_figure, strip_figure
from aha_core.figures.show import show
from aha_core.figures.studies import (
    localisation_figure,
    marker_strip_figure,
    sanity_figure,
    shortcut_figure,
    tradeoff_figure,
    transfer_figure,
    units_figure,
)
from aha_core.figures.study import correlation_figure, settings_figure
from aha_core.figures.style import method_label, to_png

__all__ = [
    "correlation_figure",
    "cost_figure",
    "critical_difference_figure",
    "curves_by_reference_figure",
    "curves_figure",
    "diverging",
    "gallery_figure",
    "hero_figure",
    "marker_strip_figure",
    "method_label",
    "overlay",
    "quality_figure",
    "ranking_figure",
    "localisation_figure",
    "sanity_figure",
    "settings_figure",
    "shortcut_figure",
    "show",
    "soft_masks_figure",
    "srg_by_step_figure",
    "strip_figure",
    "to_png",
    "tradeoff_figure",
    "training_curve_figure",
    "transfer_figure",
    "units_figure",
]
