"""The tables of scores in the README, docs/results.md and the model cards, from the committed results:
`python -m tests.results_tables` writes them anew, tests/stages/test_readme.py compares.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aha_core.sources import DEFAULT, SHIPPED
from aha_core.summary import HYBRID, baselines_by_srg, headline
from tests.conftest import ROOT

CARD = "MODEL_CARD.md"
PAGE = ROOT / "docs/results.md"
CLASSIFIERS = {  # of each profile with results
    "embedded": "small ViT, drawn objects",
    "vit-tiny-imagenet": "ViT-Tiny, ImageNet",
    "mobilenetv2-imagenet": "MobileNetV2, ImageNet",
}
FAST = (  # no training, and at most 25 gradients
    "chefer", "legrad", "grad_cam", "grad_cam_pp", "layer_cam", "rollout", "integrated_gradients", "smoothgrad",
)  # fmt: skip


def summary() -> str:
    """SRG of AHA and of the best fast baseline, a row for each classifier."""
    head = ["classifier, images", "best fast baseline", "AHA, one pass", "hybrid", "refined"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- | --- |"]
    for profile, name in CLASSIFIERS.items():
        scores = scores_of(profile)
        srg = {one: "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row["srg"]) for one, row in scores.items()}
        first, last = headline(scores)
        best = next(one for one in baselines_by_srg(scores) if one in FAST)
        refined = f"{srg[last]}, T = {last.removeprefix('aha_t')}"
        cells = [f"{name}, {scores[first]['images']}", f"{srg[best]}, `{best}`", srg[first], srg[HYBRID], refined]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scores_of(profile: str) -> Any:
    """Of the predicted class, by method."""
    found = json.loads((ROOT / f"docs/results/{profile}/evaluation.json").read_text())
    return found["scores"]["predicted"]


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


CARDS = {"vit-tiny-imagenet": DEFAULT, "mobilenetv2-imagenet": "mobilenetv2_100.ra_in1k"}
PLACES: list[tuple[Path, str, Callable[[], str]]] = [
    (ROOT / "README.md", "summary", summary),
    *((PAGE, f"results {profile}", partial(table, profile)) for profile in CLASSIFIERS),
    *((SHIPPED / name / CARD, f"results {profile}", partial(table, profile)) for profile, name in CARDS.items()),
]


def marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    for file, name, make in PLACES:
        text = file.read_text()
        (found,) = marked(name).finditer(text)
        file.write_text(f"{text[: found.start()]}{make()}\n{text[found.end() :]}")
