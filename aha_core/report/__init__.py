"""The HTML report: content as plain values, and its rendering to one self-contained file."""

from aha_core.report.content import (
    Difference,
    Estimate,
    Explorer,
    ExplorerImage,
    ExplorerMap,
    ReferenceRow,
    ReportContent,
    ReportFigure,
    ReportStudy,
    ReportTable,
    ScoreRow,
)
from aha_core.report.render import render_report

__all__ = [
    "Difference",
    "Estimate",
    "Explorer",
    "ExplorerImage",
    "ExplorerMap",
    "ReferenceRow",
    "ReportContent",
    "ReportFigure",
    "ReportStudy",
    "ReportTable",
    "ScoreRow",
    "render_report",
]
