"""The README's numbers are the committed results, its commands exist, its links lead somewhere."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("profile", ["embedded", "vit-tiny-imagenet", "mobilenetv2-imagenet"])
def test_tables_hold_the_committed_numbers(profile):
    scores = json.loads((ROOT / f"docs/results/{profile}/evaluation.json").read_text())["scores"]["predicted"]
    table = README.split(f"<!-- results {profile} -->")[1].split("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| `", line)]
    assert len(rows) >= 8
    for row in rows:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        own = scores[name.strip("`")]
        expected = [own["deletion"]["mean"], own["insertion"]["mean"], own["srg"]["mean"], own["srg"]["low"],
                    own["srg"]["high"]]  # fmt: skip
        shown = [float(number) for cell in cells[:3] for number in re.findall(r"-?\d*\.\d+", cell)]
        assert shown == pytest.approx(expected, abs=5.1e-4), row


def test_local_links_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_commands_exist():
    commands = set(re.findall(r"^aha ([a-z]+)", README, flags=re.MULTILINE))
    done = subprocess.run([sys.executable, "-m", "stages", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert commands
    for command in commands:
        assert re.search(rf"\b{command}\b", done.stdout), command


def test_python_example_runs(workspace):
    import torch

    from tests.unit.explainer.test_explainer import images, make_explainer, make_target

    make_explainer(make_target()).save(workspace / "outputs")
    code = README.split("<!-- python -->\n```python\n")[1].split("```")[0]
    names = {"images": images(2)}
    exec(code, names)
    assert isinstance(names["rather"], torch.Tensor)
    assert (workspace / "maps.png").stat().st_size > 1000
