"""The README's numbers are the committed results, its commands exist, its links lead somewhere."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.results_tables import PLACES, marked

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("file", "name", "make"), PLACES)
def test_tables_hold_the_committed_numbers(file, name, make):
    (written,) = marked(name).findall(file.read_text())
    assert written == f"{make()}\n"
    assert written.count("\n") >= 5


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
