"""The shortcut, transfer and sanity studies on a small workspace: what they write, continue and refuse."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from aha_core.errors import AhaError, ConfigError, DataError, TargetError
from aha_core.explainer import build_explainer
from aha_core.explainer.storage import Training, save_explainer
from aha_core.targets import Target
from stages.context import Context
from stages.studies import common, shortcut


@pytest.fixture
def ctx(workspace) -> Context:
    """With an untrained explainer: studies do not ask how good it is."""
    ctx = Context.create(workspace, device="cpu")
    save_untrained(ctx, workspace / "outputs/explainer", seed=0)
    return ctx


def save_untrained(ctx: Context, folder: Path, seed: int, target: Path | None = None) -> None:
    params = ctx.params
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_explainer(params.explainer, Target.load(target or ctx.paths.target))
    training = Training(params.target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    save_explainer(folder, network, training)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_shortcut_writes_its_findings_and_continues(ctx, workspace, monkeypatch):
    out = workspace / "study"

    def run() -> bytes:
        shortcut.run(ctx, out, class_name="ring", steps=1, images=8, fine_tune_steps=3, methods=("chefer", "rollout"))
        return (out / "shortcut.csv").read_bytes()

    first = run()
    assert files(out) == {"shortcut.csv", "shortcut.json", "shortcut.png", "shortcut-strip.png"}
    table = pd.read_csv(out / "shortcut.csv")
    assert table.notna().all().all()
    assert set(table.group) == {"all", "own", "other"} and set(table.target) == {"poisoned", "clean"}
    poisoned = table[(table.target == "poisoned") & (table.group == "all")]
    assert poisoned.groupby("method").steps.apply(list).to_dict() == {"aha": [0, 1], "chefer": [0], "rollout": [0]}
    text = (out / "shortcut.json").read_text()
    facts = json.loads(text)
    assert facts["class"] == "ring" and facts["marker"] == {"side": 4, "place": "corner", "seed": 42}
    assert str(workspace) not in text and "outputs" not in text

    parts = sorted((workspace / ".aha/studies").rglob("*.safetensors"))
    assert len([part for part in parts if part.name == "model.safetensors"]) == 1
    killed = next(part for part in parts if part.name.startswith("clean-aha"))
    killed.unlink()
    for name in ("fine_tune", "learn_shortcut"):
        monkeypatch.setattr(common, name, lambda *_: pytest.fail("fine-tuned again"))
    made: list[str] = []
    monkeypatch.setattr(shortcut, "find_marker", counted(shortcut.find_marker, made))
    assert run() == first
    assert len(made) == 1 and killed.is_file()


def counted(function, calls: list):
    def call(*arguments):
        calls.append("call")
        return function(*arguments)

    return call


def test_half_of_the_images_are_of_the_marked_class_where_there_are_as_many():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    assert shortcut.chosen_images(labels, 2, 4) == [2, 5, 0, 4]
    assert shortcut.chosen_images(labels, 2, 8) == [2, 5, 0, 1, 3, 4, 6, 7]
    with pytest.raises(DataError, match="need the marked class and others"):
        shortcut.chosen_images(labels, 7, 4)


def test_what_cannot_be_studied_is_refused_before_any_training(ctx, workspace, monkeypatch):
    monkeypatch.setattr(shortcut, "fine_tuned", lambda *_: pytest.fail("trained"))
    with pytest.raises(AhaError, match="'rung' is not a class of vit_convstem_mini; did you mean ring"):
        shortcut.run(ctx, workspace / "study", class_name="rung")
    with pytest.raises(TargetError, match="side is 6 px; use a multiple of 4"):
        shortcut.run(ctx, workspace / "study", marker_side=6)
    with pytest.raises(ConfigError, match="unknown method 'cheffer'.*did you mean chefer"):
        shortcut.run(ctx, workspace / "study", methods=("cheffer",))
    shutil.rmtree(workspace / "outputs/explainer")
    with pytest.raises(AhaError, match="no explainer .* run `aha train` first"):
        shortcut.run(ctx, workspace / "study")
    assert not (workspace / "study").exists()
