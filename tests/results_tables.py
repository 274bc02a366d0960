"""The tables of scores in README.md and the model cards, from the committed results: `python -m tests.results_tables`
writes them anew, tests/stages/test_readme.py compares.
"""

import json
import re

from aha_core.sources import DEFAULT, SHIPPED
from aha_core.summary import HYBRID, baselines_by_srg, headline
from tests.conftest import ROOT

CARD = "MODEL_CARD.md"
PLACES = [
    (ROOT / "README.md", "embedded"),
    (ROOT / "README.md", "vit-tiny-imagenet"),
    (ROOT / "README.md", "mobilenetv2-imagenet"),
    (SHIPPED / DEFAULT / CARD, "vit-tiny-imagenet"),
    (SHIPPED / "mobilenetv2_100.ra_in1k" / CARD, "mobilenetv2-imagenet"),
]


def table(profile: str) -> str:
    """AHA's rows, then the baselines, the best first, by the difference on the images that both have.

    A method that was scored beside earlier weights of the explainer has no difference. The last column says how many
    images, or the energy where there are masks.
    """
    summary = json.loads((ROOT / f"docs/results/{profile}/evaluation.json").read_text())
    scores, places = summary["scores"]["predicted"], summary.get("localisation")
    head = ["method", "deletion ↓", "insertion ↑", "SRG ↑ [95 %]", "one pass − method [95 %]"]
    lines = [
        f"| {' | '.join([*head, 'energy in mask' if places else 'images'])} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    first, last = headline(scores)
    for name in [last, HYBRID, first, *baselines_by_srg(scores)]:
        row, gap = scores[name], scores[name].get("aha_t0_minus_this")
        srg = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row["srg"])
        against = "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gap) if gap else ""
        end = f"{places[name]['energy']['mean']:.0%}" if places else str(row["images"])
        cells = [f"`{name}`", f"{row['deletion']['mean']:.3f}", f"{row['insertion']['mean']:.3f}", srg, against, end]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def marked(profile: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- results {profile} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    for file, profile in PLACES:
        (old,) = marked(profile).findall(file.read_text())
        file.write_text(file.read_text().replace(old, table(profile)))
