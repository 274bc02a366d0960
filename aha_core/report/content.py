"""What a report says, free of how it looks: plain values that stage `report` fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Paired difference AHA - method with its 95 % interval and Holm-corrected p value."""

    mean: float
    low: float
    high: float
    p_holm: float


@dataclass(frozen=True)
class ScoreRow:
    """One method of the main table.

    method: its name (aha_t5, grad_cam, …); difference: None for the row that is compared with;
    energy, pointing: localisation, None where the data has no masks; images: where it was scored on fewer than others.
    """

    method: str
    deletion: Estimate
    insertion: Estimate
    srg: Estimate
    difference: Difference | None = None
    energy: Estimate | None = None
    pointing: Estimate | None = None
    images: int | None = None


@dataclass(frozen=True)
class ReferenceRow:
    """Mean scores of one method under one reference image."""

    method: str
    deletion: float
    insertion: float
    srg: float


@dataclass(frozen=True)
class ReportFigure:
    """A picture. id: anchor; png: the bytes; alt: text for those who do not see it, the caption where empty."""

    id: str
    title: str
    caption: str
    png: bytes
    alt: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A further table. id: anchor; note: how to read it; columns: heads after the method; rows: method and cells."""

    id: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class ExplorerMap:
    """One method's map of one image.

    ranks: PNG, grey; level = floor(256 r / HW) of the pixel at place r of the ranking, 0 = most important first;
    curves: reference to (deletion, insertion), the class probability at each of the explorer's fractions.
    """

    method: str
    ranks: bytes
    curves: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


@dataclass(frozen=True)
class ExplorerImage:
    """title: what is explained; image: PNG; references: name to PNG of what removed pixels show."""

    title: str
    image: bytes
    references: Mapping[str, bytes]
    maps: tuple[ExplorerMap, ...]


@dataclass(frozen=True)
class Explorer:
    """Images in which a slider removes or inserts pixels by rank. fractions: where the curves were measured."""

    fractions: tuple[float, ...]
    images: tuple[ExplorerImage, ...]


@dataclass(frozen=True)
class ReportStudy:
    """A study's answer. id: anchor; sentences: the answer; figures: of the study; command: that makes it."""

    id: str
    title: str
    sentences: tuple[str, ...]
    figures: tuple[ReportFigure, ...]
    command: str


@dataclass(frozen=True)
class ReportContent:
    """Everything in a report.

    title, subtitle: heading; verdict: sentences, the answer first; scores: in the order of the table;
    score_note: how to read the table; references: reference name to its rows; contract: lines of the metric contract;
    facts: run facts; reproduce: commands; versions: package to version; tables: further ones, after the references;
    opening: a figure that stands before the scores; explorer: None where no image may be shown; studies: those that
    were made; missing: (what is not here, the command that makes it).
    """

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    scores: tuple[ScoreRow, ...]
    references: Mapping[str, tuple[ReferenceRow, ...]]
    figures: tuple[ReportFigure, ...]
    contract: tuple[str, ...]
    facts: Mapping[str, str]
    reproduce: tuple[str, ...]
    versions: Mapping[str, str]
    score_note: str = ""
    warnings: tuple[str, ...] = field(default=())
    tables: tuple[ReportTable, ...] = field(default=())
    opening: ReportFigure | None = None
    explorer: Explorer | None = None
    studies: tuple[ReportStudy, ...] = field(default=())
    missing: tuple[tuple[str, str], ...] = field(default=())
