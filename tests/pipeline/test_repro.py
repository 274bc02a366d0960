"""A reduced but real `dvc repro` in a temporary clone: everything runs, nothing runs twice, experiments work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from aha_core.ranking import RELAXATIONS
from stages.context import Context
from stages.studies import relaxation as study
from tests.conftest import ROOT, small_params

pytestmark = pytest.mark.timeout(900)


IN_TURN = """
import json, sys
from stages.cli import app
for command in json.loads(sys.argv[1]):
    app(command, standalone_mode=False)
"""


def call(cwd: Path, *command: str, expected: int = 0, **environment: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}  # MLflow sets it here
    done = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=own | {"PATH": path} | environment,
    )  # fmt: skip
    assert done.returncode == expected, f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def aha_in_turn(cwd: Path, *commands: tuple[str, ...]) -> None:
    """Several `aha` commands in one process, whose start takes longer than they do."""
    call(cwd, sys.executable, "-c", IN_TURN, json.dumps(commands))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The working tree as a fresh repository with small parameters, after its first `dvc repro`."""
    clone = tmp_path_factory.mktemp("clone") / "aha"
    files = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    (clone / "params.yaml").write_text(yaml.safe_dump(small_params()))
    call(clone, "git", "init", "-q")
    call(clone, "git", "add", "-A")
    call(clone, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "clone")
    call(clone, "dvc", "repro")
    return clone


def test_every_stage_left_its_outputs_and_git_stays_clean(checkout):
    scores = pd.read_parquet(checkout / "outputs/evaluation/scores.parquet")
    methods = small_params()["evaluate"]["methods"] + ["aha_t0", "aha_t1", "aha_t2", "aha_hybrid"]
    assert sorted(scores["method"].unique()) == sorted(methods)
    assert len(scores) == len(methods) * 6 * 3
    assert scores[["deletion", "insertion", "srg"]].notna().all().all()
    report = (checkout / "outputs/report/index.html").read_text()
    assert "deletion" in report.lower()
    assert str(checkout) not in report
    changed = {line[3:] for line in call(checkout, "git", "status", "--porcelain").splitlines()}
    assert changed <= {"dvc.lock"}


def test_second_repro_runs_nothing(checkout):
    assert "up to date" in call(checkout, "dvc", "repro")
    assert "'nosuch' not found" in call(checkout, "aha", "run", "nosuch", expected=1)


def test_dvc_shows_few_numbers_every_plot_and_the_dag(checkout):
    shown = json.loads(call(checkout, "dvc", "metrics", "show", "--json"))[""]["data"]
    scores = shown["outputs/metrics/scores.json"]["data"]
    assert set(scores) == {"one_pass", "refined", "best_baseline"}
    assert sum(len(one) for one in scores.values()) == 9
    columns = call(checkout, "dvc", "exp", "show", "--csv").splitlines()[0]
    assert "one_pass.srg" in columns and "refined.srg" in columns
    call(checkout, "dvc", "plots", "show", "--out", ".aha/plots")
    page = (checkout / ".aha/plots/index.html").read_text()
    for title in ("Training", "Deletion (lower is better)", "Insertion (higher is better)", "Score by refinement step"):
        assert title in page, title
    assert len(page) > 10_000
    assert "evaluate" in call(checkout, "dvc", "dag")


def test_editing_figure_code_reruns_the_report_alone(checkout):
    figure = checkout / "aha_core/figures/lines.py"
    original = figure.read_text()
    figure.write_text(original + "\n# edited\n")
    try:
        status = json.loads(call(checkout, "dvc", "status", "--json"))
        assert set(status) == {"report"}
    finally:
        figure.write_text(original)


def test_queued_experiment_uses_the_projects_tracking_store(checkout):
    call(checkout, "git", "add", "-A")
    call(checkout, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "lock")
    git = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "t"}
    git |= {"GIT_COMMITTER_EMAIL": "t@example.org"}
    changes = ("-S", "refine.steps=1", "-S", "resources.workers=0")
    call(checkout, "dvc", "exp", "run", "--queue", *changes, "-n", "fewer-steps", **git)
    call(checkout, "dvc", "exp", "run", "--run-all", **git)
    shown = call(checkout, "dvc", "exp", "show", "--csv")
    assert "fewer-steps" in shown
    diff = call(checkout, "dvc", "metrics", "diff", "HEAD", "fewer-steps")
    assert "refined.srg" in diff
    assert [path.name for path in checkout.rglob("mlflow.db")] == ["mlflow.db"]


def test_benchmarks_and_study_run_on_the_pipelines_own_outputs(checkout, monkeypatch):
    other = small_params()
    other["ranking"] |= {"method": "gumbel_sinkhorn", "standardise": False}
    other["objective"] |= {"fractions": 4, "sampling": "grid", "classes_per_image": "all"}
    (checkout / "outputs/paper.yaml").write_text(yaml.safe_dump(other))
    train = ("bench", "train", "--against", "outputs/paper.yaml", "--minutes", "0.02", "--images", "4")
    aha_in_turn(
        checkout,
        ("bench", "ranking", "--max-cells", "49", "--pairs", "2"),
        ("bench", "passes", "--images", "2"),
        ("bench", "evaluation", "--images", "2", "--rounds", "1"),
        train,
    )
    rows = pd.read_csv(checkout / "outputs/bench/ranking.csv")
    assert set(rows.method) == set(RELAXATIONS)
    assert rows[["seconds", "peak_mb", "residual", "soft_hard", "cosine"]].notna().all().all()
    layouts = {"fp32", "bf16", "bf16, plain attention", "fp32, channels last", "bf16, channels last"}
    folded = {"fp32, channels last, folded"}  # the classifier's convolution stem has batch norms
    assert set(pd.read_csv(checkout / "outputs/bench/passes.csv").variant) == layouts | folded
    assert (pd.read_csv(checkout / "outputs/bench/evaluation.csv").passes == 2 * 2 * 4).all()
    costs = pd.read_csv(checkout / "outputs/bench/train.csv").set_index("preset")
    assert costs.masked_passes.to_dict() == {"ours": 4, "paper": 2 * 2 * 3}
    assert set(pd.read_csv(checkout / "outputs/bench/quality.csv").preset) == {"ours", "paper"}
    other["seed"] = 7
    (checkout / "outputs/paper.yaml").write_text(yaml.safe_dump(other))
    assert "another section `seed`" in call(checkout, sys.executable, "-m", "stages", *train, expected=1)

    monkeypatch.setattr(study, "STEPS", 4)
    monkeypatch.setattr(study, "CHECKS", 2)
    monkeypatch.setattr(study, "BATCH", 4)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    chosen = [setting for setting in study.settings() if setting.name in ("soft_topk", "lapsum")]
    for _ in range(2):  # the second time nothing runs
        study.run(Context.create(checkout, workers=0), checkout / "outputs/study", chosen, images=4)
    table = pd.read_csv(checkout / "outputs/study/relaxation.csv").set_index("setting")
    assert table.default.to_dict() == {"soft_topk": True, "lapsum": False}
    assert {"relaxation.png", "correlation.png", "relaxation.json"} <= {
        file.name for file in (checkout / "outputs/study").iterdir()
    }
