"""The walls of the house: who imports whom, and that dvc.yaml names what each stage uses."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT

SHELL_ONLY = {"ray", "mlflow", "dvc", "typer"}
# A stage's result does not depend on these: formats of errors, schema, files; commands, consoles, tracking.
NEUTRAL = {
    "aha_core/__init__.py", "aha_core/errors.py", "aha_core/files.py", "aha_core/protocols.py",
    "stages/__init__.py", "stages/context.py", "stages/outputs.py", "stages/paths.py", "stages/tracking.py",
    *(str(file.relative_to(ROOT)) for file in (ROOT / "aha_core/config").glob("*.py")),
}  # fmt: skip


def modules(*packages: str) -> list[Path]:
    return [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def local_files(name: str) -> set[Path]:
    """The files behind a dotted local import, packages' __init__ files included."""
    parts = name.split(".")
    found = set()
    for end in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:end])
        found |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return found


def closure(start: Path) -> set[Path]:
    seen, todo = set(), [start]
    while todo:
        file = todo.pop()
        bare_package = file.name == "__init__.py" and not imported(file)
        if file in seen or bare_package or str(file.relative_to(ROOT)) in NEUTRAL:
            continue
        seen.add(file)
        todo += [dep for name in imported(file) if name.startswith(("aha_core", "stages")) for dep in local_files(name)]
    return seen


@pytest.mark.parametrize("file", modules("aha_core"), ids=lambda file: str(file.relative_to(ROOT)))
def test_library_imports_no_pipeline_tool(file):
    assert not {name.split(".")[0] for name in imported(file)} & (SHELL_ONLY | {"stages"})


def test_one_module_imports_mlflow_and_one_imports_ray():
    users = {tool: set() for tool in ("mlflow", "ray")}
    for file in modules("stages"):
        for tool in users:
            if tool in {name.split(".")[0] for name in imported(file)}:
                users[tool].add(file.name)
    assert users == {"mlflow": {"tracking.py"}, "ray": {"launch.py"}}


@pytest.mark.parametrize("stage", ["prepare", "target", "train", "fastshap", "refine", "evaluate", "report"])
def test_dvc_dependencies_cover_the_imports_and_exist(stage):
    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    deps = [dep for dep in entry["deps"] if not dep.startswith("outputs")]
    assert all((ROOT / dep).exists() for dep in deps)
    used = {str(file.relative_to(ROOT)) for file in closure(ROOT / f"stages/{stage}.py")}
    missing = {file for file in used if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    assert missing == set()
    unused = {dep for dep in deps if not any(file == dep or file.startswith(f"{dep}/") for file in used)}
    assert unused == set()


def test_figures_and_report_code_are_dependencies_of_report_alone():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    users = {name for name, entry in stages.items() if any("figures" in dep for dep in entry["deps"])}
    assert users == {"report"}


def test_the_evaluation_makes_the_hybrid_map_and_depends_on_its_settings():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {"refine.grid", "refine.hybrid_weight", "refine.precision"} <= set(stages["evaluate"]["params"])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom stages.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'mlflow', 'ray', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_every_pinned_package_takes_the_oldest_python_that_we_do():
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{ours.removeprefix('>=')}.0"
    installed = {one.name: one.metadata.get("Requires-Python", "") for one in distributions()}
    assert "dvc" in installed
    assert not {name: wants for name, wants in installed.items() if not SpecifierSet(wants).contains(oldest)}
