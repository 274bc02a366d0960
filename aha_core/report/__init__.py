"""The HTML report: content as plain values, and its rendering to one self-contained file."""

from aha_core.report.content import (
    Difference,
    Estimate,
    ReferenceRow,
    ReportContent,
    ReportFigure,
    ReportTable,
    ScoreRow,
)
from aha_core.report.render import render_report

__all__ = [
    "Difference",
    "Estimate",
    "ReferenceRow",
    "ReportContent",
    "ReportFigure",
    "ReportTable",
    "ScoreRow",
    "render_report",
]
