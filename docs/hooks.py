"""What the pages need beyond Markdown: formulas without scripts, and the README's result tables."""

import re
from pathlib import Path

from latex2mathml.converter import convert

README = Path(__file__).resolve().parents[1] / "README.md"


def on_page_markdown(markdown: str, **_: object) -> str:
    """```math blocks, which GitHub draws too, become MathML; `<!-- results NAME -->` the README's table."""
    markdown = re.sub(r"^```math\n(.*?)^```$", lambda one: formula(one[1]), markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!-- results ([\w-]+) -->", lambda one: table(one[1]), markdown)


def formula(latex: str) -> str:
    return f'<div style="overflow: auto hidden; margin: 1em 0">{convert(latex.strip(), display="block")}</div>'


def table(profile: str) -> str:
    return README.read_text().split(f"<!-- results {profile} -->")[1].split("<!-- end -->")[0]
