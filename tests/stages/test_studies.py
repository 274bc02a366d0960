"""The shortcut, transfer and sanity studies on a small workspace: what they write, continue and refuse."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer

from aha_core.config import parse_explainer
from aha_core.errors import AhaError, AttributionError, ConfigError, DataError, TargetError
from aha_core.explainer import build_explainer
from aha_core.explainer.backbone import Backbone
from aha_core.explainer.storage import Training, save_explainer
from aha_core.targets import Target, create_model
from stages.cli import app
from stages.context import Context
from stages.studies import common, sanity, shortcut, transfer
from tests.conftest import ROOT


@pytest.fixture
def ctx(workspace, change) -> Context:
    """With an untrained explainer: studies do not ask how good it is. One thread: tests run beside each other."""
    change("resources", threads=1)
    ctx = Context.create(workspace, device="cpu")
    save_untrained(ctx, workspace / "outputs/explainer", seed=0)
    return ctx


def save_untrained(ctx: Context, folder: Path, seed: int, kind: str = "features") -> Path:
    """An explainer with random weights; of kind dpt with a random backbone."""
    params, target = ctx.params, Target.load(ctx.paths.target)
    config, backbone = params.explainer, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "dpt":
            name, size = "vit_convstem_mini", target.image_size
            config = parse_explainer({
                "kind": "dpt", "stages": [0.0, 0.5, 0.5, 1.0], "channels": 16, "width": 16, "dropout": 0.0,
                "backbone": {"source": "train", "name": name, "checkpoint": "", "image_size": size},
            })  # fmt: skip
            backbone = Backbone(name, create_model(name, 0, size), size)
        network = build_explainer(config, target, backbone)
    save_explainer(folder, network, Training(target.name, params.seed, config, params.ranking, params.perturbation))
    return folder


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


def test_transfer_compares_the_given_explainer_with_a_fresh_one(ctx, workspace):
    out, fresh = workspace / "study", save_untrained(ctx, workspace / "fresh", seed=1)
    wider = Target.load(ctx.paths.target)
    wider.save(workspace / "copy")
    transfer.run(
        ctx, out, steps=1, images=4, fine_tune_steps=2, others={"copy": workspace / "copy"}, fresh={"further": fresh},
        methods=("chefer",),
    )  # fmt: skip
    assert files(out) == {"transfer.csv", "transfer.json", "transfer.png"}
    table = pd.read_csv(out / "transfer.csv").set_index(["target", "method", "steps"])
    assert list(table.index.unique("target")) == ["original", "copy", "further", "poisoned", "poisoned, marked images"]
    assert table.srg["copy", "aha", 1] == table.srg["original", "aha", 1]
    assert table.srg["further", "aha", 1] != table.srg["original", "aha", 1]
    gap = table.srg["further", "aha", 0] - table.srg["further", "fresh", 0]
    assert table.minus_fresh["further", "aha", 0] == pytest.approx(gap, abs=1e-4)
    assert table.minus_fresh.notna().sum() == 2
    facts = json.loads((out / "transfer.json").read_text())
    assert (workspace / facts["weights"]["poisoned"] / "model.safetensors").is_file()
    assert str(workspace) not in json.dumps(facts)


def test_transfer_to_another_architecture_needs_an_explainer_that_does_not_read_the_target(ctx, workspace, monkeypatch):
    names, size = Target.load(ctx.paths.target).class_names, ctx.params.data.image_size
    other = Target("resnet10t", create_model("resnet10t", len(names), size), size, names)
    other.save(workspace / "resnet")
    monkeypatch.setattr(transfer, "fine_tuned", lambda *_: pytest.fail("trained"))
    with pytest.raises(AttributionError, match="was trained for vit_convstem_mini, not for resnet10t"):
        transfer.run(ctx, workspace / "study", others={"resnet": workspace / "resnet"})
    paper = save_untrained(ctx, workspace / "paper", seed=1, kind="dpt")
    targets = {"original": Target.load(ctx.paths.target), "resnet": other}
    transfer.check_fit(ctx, paper, targets, {}, ("grad_cam",))
    with pytest.raises(ConfigError, match="--fresh-explainer swin: no target of that name"):
        transfer.check_fit(ctx, paper, targets, {"swin": paper}, ())
    Target("resnet10t", create_model("resnet10t", 3, size), size, list("abc")).save(workspace / "three")
    with pytest.raises(TargetError, match="3 classes.* has another input size or other classes"):
        transfer.run(ctx, workspace / "study", others={"three": workspace / "three"})


def test_folders_are_given_by_name(tmp_path):
    assert common.named_folders([f"a={tmp_path}"], "--target") == {"a": tmp_path}
    for wrong in ([str(tmp_path)], ["=x"], [f"a={tmp_path}", f"a={tmp_path}"]):
        with pytest.raises(ConfigError, match="expected NAME=FOLDER with a name of its own"):
            common.named_folders(wrong, "--target")
    with pytest.raises(DataError, match="there is no such folder"):
        common.named_folders([f"a={tmp_path / 'b'}"], "--target")


def test_sanity_changes_our_maps_and_not_the_papers(ctx, workspace):
    out, paper = workspace / "study", save_untrained(ctx, workspace / "paper", seed=1, kind="dpt")
    sanity.run(ctx, out, images=3, depths=2, paper=paper, methods=("chefer",))
    assert files(out) == {"sanity.csv", "sanity.json", "sanity.png"}
    table = pd.read_csv(out / "sanity.csv").set_index(["method", "depth"])
    assert table.group["aha"].tolist() == ["blocks.2", "embedding"]
    assert table.spearman["paper"].tolist() == table.ssim["paper"].tolist() == [1.0, 1.0]
    assert table.spearman["aha", 2] < 0.9
    assert table.spearman["chefer"].notna().all()


PAGE = (ROOT / "docs/find-a-shortcut.md").read_text()


def test_the_pages_commands_and_flags_exist():
    lines = [line.split(" #")[0] for line in PAGE.splitlines() if line.startswith("aha ")]
    assert {line.split()[1] for line in lines} == {"study", "explain"}
    root = typer.main.get_command(app)
    for line in lines + ["aha study sanity --paper-explainer DIR", "aha study shortcut --marker-place --relabelled"]:
        words = line.split()[1:]
        command = root.commands[words[0]]
        command = command.commands[words[1]] if words[0] == "study" else command
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_pages_code_runs(ctx, workspace):
    code = "".join(part.split("```")[0] for part in PAGE.split("```python\n")[1:])
    names: dict = {}
    exec(compile(code, "find-a-shortcut.md", "exec"), names)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ranks = names["mean_ranks"](x, 1, 1)
    assert ranks.shape == (32, 32) and ranks.mean().item() == pytest.approx(0.5)
    nothing = names["drops"](x, torch.zeros(2, 1, 32, 32, dtype=torch.bool), 1)
    assert set(nothing) == {"black", "mean", "blur"} and not any(bool(lost.any()) for lost in nothing.values())
