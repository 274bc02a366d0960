"""Report content to one HTML file that needs nothing else: styles, script and pictures are in it.

The content security policy names the one script by its hash: nothing else can run, and nothing can be loaded, even if
a text of the content were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from aha_core.figures.style import is_aha, method_label, refinement_step
from aha_core.files import atomic_text
from aha_core.report.content import Estimate, Explorer, ReferenceRow, ReportContent, ReportFigure, ScoreRow

_WEBP_ABOVE = 200_000  # bytes; larger pictures (photographs, galleries) shrink to about a fifth as WebP
_WEBP_QUALITY = 90


def render_report(content: ReportContent, out: Path) -> None:
    """Write the report. The same content always gives the same bytes; all texts are escaped."""
    template, styles, script = (_part(name) for name in ("template.html", "style.css", "script.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "signed": signed, "p_value": p_value, "method": method_label}
    environment.tests["aha"] = is_aha
    atomic_text(
        out,
        environment.from_string(template).render(
            content=content,
            styles=Markup(styles),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            tiles=tiles(content.scores),
            forest=Forest.around([row.srg for row in content.scores]),
            embed=embed,
            explorer=explorer_data(content.explorer) if content.explorer else None,
            by_method=by_method(content.references),
            localised=any(row.energy or row.pointing for row in content.scores),
            compared=any(row.difference for row in content.scores),
        ),
    )


def _part(name: str) -> str:
    return files("aha_core.report").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Forest:
    """The common scale of the interval plots in the score table: values to percent of the width."""

    low: float
    high: float

    @classmethod
    def around(cls, estimates: list[Estimate]) -> Forest:
        """A scale that holds all intervals and zero."""
        low = min([0.0, *(estimate.low for estimate in estimates)])
        high = max([0.0, *(estimate.high for estimate in estimates)])
        margin = 0.04 * (high - low) or 1.0
        return cls(low - margin, high + margin)

    def place(self, value: float) -> str:
        """Position of a value, percent with two digits."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}"


def tiles(scores: tuple[ScoreRow, ...]) -> list[tuple[str, str, bool]]:
    """The headline numbers as (label, SRG, whether it is AHA's): AHA in one pass, refined, best baseline."""
    ours = [row for row in scores if is_aha(row.method)]
    others = [row for row in scores if not is_aha(row.method)]
    chosen = sorted(ours, key=lambda row: refinement_step(row.method) or 0)
    picked = [chosen[0], chosen[-1]] if len(chosen) > 1 else chosen
    labels = [(method_label(row.method), row, True) for row in picked]
    if others:
        best = max(others, key=lambda row: row.srg.mean)
        labels.append((f"best baseline: {method_label(best.method)}", best, False))
    return [(label, signed(row.srg.mean), mine) for label, row, mine in labels]


def by_method(references: Mapping[str, tuple[ReferenceRow, ...]]) -> list[tuple[str, list[ReferenceRow | None]]]:
    """Each method with its row under every reference, None where it has none; methods in order of appearance."""
    names = dict.fromkeys(row.method for rows in references.values() for row in rows)
    found = [{row.method: row for row in rows} for rows in references.values()]
    return [(name, [rows.get(name) for rows in found]) for name in names]


def explorer_data(explorer: Explorer) -> dict[str, Any]:
    """What the script needs, as plain JSON values."""
    return {
        "fractions": explorer.fractions,
        "images": [
            {
                "title": one.title,
                "image": _data_uri(one.image, "png"),
                "references": {name: _data_uri(png, "png") for name, png in one.references.items()},
                "maps": [
                    {"method": method_label(m.method), "ranks": _data_uri(m.ranks, "png"), "curves": dict(m.curves)}
                    for m in one.maps
                ],
            }
            for one in explorer.images
        ],
    }


def embed(figure: ReportFigure) -> dict[str, Any]:
    """Data URI and size of a picture. Raises ValueError for bytes that are no image."""
    with Image.open(io.BytesIO(figure.png)) as image:
        width, height = image.size
        data, kind = figure.png, (image.format or "png").lower()
        if len(data) > _WEBP_ABOVE:
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
            data, kind = buffer.getvalue(), "webp"
    return {"source": _data_uri(data, kind), "width": width, "height": height}


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def number(value: float) -> str:
    """Three digits after the point (a true minus)."""
    return f"{value:.3f}".replace("-", "−")


def signed(value: float) -> str:
    """Three digits with a sign (a true minus)."""
    return f"{value:+.3f}".replace("-", "−")


def p_value(value: float) -> str:
    """p = 0.012, or p < 0.001."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
