"""What the pages need beyond Markdown: formulas without scripts."""

import re

from latex2mathml.converter import convert


def on_page_markdown(markdown: str, **_: object) -> str:
    """```math blocks, which GitHub draws too, become MathML."""
    return re.sub(r"^```math\n(.*?)^```$", lambda one: formula(one[1]), markdown, flags=re.MULTILINE | re.DOTALL)


def formula(latex: str) -> str:
    return f'<div style="overflow: auto hidden; margin: 1em 0">{convert(latex.strip(), display="block")}</div>'
