"""The shortcut, transfer, sanity and tradeoff studies on a small workspace: what they write, continue and refuse."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import typer

from aha_core import refinement
from aha_core.attribution import Explainer
from aha_core.baselines import make_baseline
from aha_core.config import parse_explainer
from aha_core.data.dataset import PreparedImages
from aha_core.errors import AhaError, AttributionError, ConfigError, DataError, TargetError
from aha_core.evaluation import SEED_STREAM
from aha_core.explainer import build_explainer
from aha_core.explainer.backbone import Backbone
from aha_core.explainer.storage import Training, save_explainer
from aha_core.metrics import curve_fractions, deletion_insertion, perturbation_accuracy, removal_order
from aha_core.order import rank_cells, scatter
from aha_core.references import evaluation_reference
from aha_core.selection import evaluation_indices
from aha_core.targets import Target, create_model
from stages.cli import app
from stages.context import Context
from stages.images import evaluated
from stages.reporting.studies import read_studies
from stages.studies import common, sanity, shortcut, tradeoff, transfer, units
from stages.studies import refinement as refinement_study
from tests.conftest import ROOT
from tests.stages.quiet import Quiet


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
    transfer.run(
        ctx, out, steps=1, images=4, fine_tune_steps=2, others={"copy": workspace / "copy"}, fresh={"original": fresh},
        methods=("chefer",),
    )  # fmt: skip
    renamed = pd.read_csv(out / "transfer.csv").set_index(["target", "method", "steps"])
    assert list(renamed.dropna(subset="minus_fresh").index.unique("target")) == ["original"]
    assert renamed.srg["original", "fresh", 0] != table.srg["further", "fresh", 0]
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


def test_a_learning_rate_of_nothing_changes_nothing(ctx):
    target = Target.load(ctx.paths.target)
    tuned, _ = common.fine_tuned(ctx, target, common.recipe_of(ctx, steps=2, lr=0.0, seed_offset=0))
    for before, after in zip(target.model.parameters(), tuned.model.parameters(), strict=True):
        assert torch.equal(before, after)
    usual = ctx.params.target.train.lr / (1 if ctx.params.target.source == "train" else 10)
    assert common.recipe_of(ctx, steps=2, lr=None, seed_offset=0).lr == usual


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


COUNTED = ("method", "setting", "steps", "masks", "passes")


class Logged(Quiet):
    """A tracker that keeps the names of files."""

    names: list[str] = []

    def log_files(self, files, folder):
        Logged.names += [f"{folder}/{file.name}" for file in files]


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    monkeypatch.setattr(Logged, "names", [])
    monkeypatch.setattr(tradeoff, "Tracker", Logged)
    return Logged.names


def first_images(ctx: Context, count: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The evaluation's first images, their predicted classes, their places in the split."""
    dataset, indices = evaluated(ctx, "test")
    x = dataset.batch(indices[:count])[0].float() / 255
    return x, Target.load(ctx.paths.target).probabilities(x).argmax(dim=1), indices[:count]


def contract_srg(ctx: Context, maps: torch.Tensor, count: int) -> float:
    """Mean SRG over the evaluation's first images and references, from the contract's own functions."""
    return contract_srg_of(ctx, maps, *first_images(ctx, count))


def contract_srg_of(
    ctx: Context, maps: torch.Tensor, x: torch.Tensor, classes: torch.Tensor, indices: list[int]
) -> float:
    params, target = ctx.params, Target.load(ctx.paths.target)
    seeds = [params.seed * SEED_STREAM + index for index in indices]
    counts, _ = curve_fractions(params.evaluate.points, x.shape[2] * x.shape[3])
    orders = removal_order(maps, seeds)
    gains = []
    for name in params.evaluate.references:
        reference = evaluation_reference(x, name, params.perturbation, seeds)
        gains.append(deletion_insertion(target.probabilities, x, orders, classes, reference, counts, 64).srg)
    return float(torch.stack(gains).mean())


def test_tradeoff_scores_what_it_counts(ctx, workspace, logged, monkeypatch):
    out, images = ctx.paths.outputs / "study", 4
    tradeoff.run(ctx, out, steps=2, fractions=(2, 1), rise_masks=(5, 3), images=images)
    assert files(out) == {"tradeoff.csv", "tradeoff.json", "tradeoff.png"}
    assert logged == ["study/tradeoff.csv", "study/tradeoff.json", "study/tradeoff.png"]
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(out / "tradeoff.csv")
    assert table.drop(columns=["setting", "steps", "masks"]).notna().all().all()
    assert (table.seconds_on_this_machine > 0).all() and (table.low <= table.srg).all()
    found = [tuple(row) for row in table.astype(object).fillna("")[list(COUNTED)].to_numpy()]
    references = len(ctx.params.refine.references)
    assert found == [
        *(("aha", f"S = {s}", t, "", 1 + 3 * 2 * s * references * t + 3 * (t > 0)) for s in (1, 2) for t in (0, 1, 2)),
        ("rise", "", "", 3, 3), ("rise", "", "", 5, 5),
        ("greedy", "2 x 2 patches", "", "", 4 * 5), ("chefer", "", "", "", 3),
    ]  # fmt: skip

    srg = dict(zip([one[:4] for one in found], table.srg, strict=True))
    x, classes, _ = first_images(ctx, images)
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    once = contract_srg(ctx, explainer.attribute(x, classes), images)
    assert srg["aha", "S = 1", 0, ""] == srg["aha", "S = 2", 0, ""] == pytest.approx(once, abs=2e-7)
    explainer.refinement = explainer.refinement.model_copy(update={"fractions": 2})
    refined = contract_srg(ctx, explainer.attribute(x, classes, steps=2), images)
    assert srg["aha", "S = 2", 2, ""] == pytest.approx(refined, abs=2e-7)
    for masks in (3, 5):
        settings = dataclasses.replace(common.baseline_settings(ctx), rise_masks=masks)
        maps = make_baseline("rise", explainer.target, settings).attribute(x, classes)
        assert srg["rise", "", "", masks] == pytest.approx(contract_srg(ctx, maps, images), abs=2e-7)

    own, fewer, most = table.iloc[2], table.iloc[0], table.iloc[7]
    assert own.minus_one_pass == pytest.approx(own.srg - fewer.srg, abs=1e-4)
    assert own.minus_rise == pytest.approx(own.srg - most.srg, abs=1e-4)
    assert own.minus_rise_low <= own.minus_rise <= own.minus_rise_high
    facts = json.loads((out / "tradeoff.json").read_text())
    assert facts["images"] == images and facts["fractions"] == [1, 2] and facts["device"] == "CPU"
    assert str(workspace) not in json.dumps(facts)
    (study,), _ = read_studies(ctx)
    assert study.id == "study-tradeoff" and "RISE with 5 masks" in study.sentences[0] and len(study.figures) == 1

    first = (out / "tradeoff.csv").read_bytes()  # with the seconds of the first run
    parts = sorted((workspace / ".aha/studies").rglob("*.safetensors"))
    assert [part.name for part in parts if "aha" in part.name] == [
        "ahaS=1-00000.safetensors",
        "ahaS=2-00000.safetensors",
    ]
    monkeypatch.setattr(tradeoff, "measured", lambda *_: pytest.fail("measured again"))
    tradeoff.run(ctx, out, steps=2, fractions=(1, 2), rise_masks=(3, 5), images=images)
    assert (out / "tradeoff.csv").read_bytes() == first


def test_tradeoff_counts_only_the_steps_that_images_take(ctx, workspace, change, logged, monkeypatch):
    change("refine", patience=1)
    monkeypatch.setattr(refinement, "ROUNDING", 1.0)  # no score rises as much: every image stops after a step
    ctx = Context.create(workspace, device="cpu")
    tradeoff.run(ctx, workspace / "study", steps=6, fractions=(1,), rise_masks=(2,), images=4, methods=())
    x, classes, _ = first_images(ctx, 4)
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    taken = explainer.refine(x, explainer.attribute(x, classes), classes, 6).taken
    assert taken.tolist() == [1] * 4
    table = pd.read_csv(workspace / "study/tradeoff.csv")
    step = 3 * 2 * 3  # a check is a third of it: every step, as long as an image goes on
    total = 3 + step * float((taken + (taken + 1).clamp(max=6) / 3).mean())
    done = [2 * 3 * float(taken.clamp(max=count).double().mean()) + (count > 0) for count in range(7)]  # and the start
    shares = [one / done[-1] for one in done]
    expected = [1 + share * total for share in shares]
    assert table[table.method == "aha"].passes.tolist() == pytest.approx(expected, rel=1e-4)
    seconds = table[table.method == "aha"].seconds_on_this_machine
    assert (seconds.diff()[1:] >= 0).all()


def test_tradeoff_scores_in_the_evaluations_number_format(ctx, workspace, change, logged):
    scores = []
    for precision in ("fp32", "bf16"):
        change("evaluate", precision=precision)
        ctx = Context.create(workspace, device="cpu")
        tradeoff.run(ctx, workspace / "study", steps=0, fractions=(1,), rise_masks=(2,), images=2, methods=())
        scores.append(pd.read_csv(workspace / "study/tradeoff.csv").srg)
    assert scores[0].tolist() != scores[1].tolist()
    assert scores[0].tolist() == pytest.approx(scores[1].tolist(), abs=0.02)


def test_units_score_the_same_maps_in_four_grains(ctx, workspace, change, monkeypatch):
    change("evaluate", precision="fp32")
    ctx = Context.create(workspace, device="cpu")
    out, images, side = ctx.paths.outputs / "study", 4, 8
    units.run(ctx, out, images=images, steps=1, patch=side, methods=("chefer", "centre"))
    assert files(out) == {"units.csv", "units.json", "units.png"}
    table = pd.read_csv(out / "units.csv").set_index(["method", "unit"])
    assert list(dict.fromkeys(table.index.get_level_values(0))) == [
        "aha_t0",
        "aha_hybrid",
        "aha_t1",
        "chefer",
        "centre",
    ]
    x, classes, indices = first_images(ctx, images)
    seeds = [ctx.params.seed * SEED_STREAM + index for index in indices]
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    chefer = make_baseline("chefer", explainer.target, common.baseline_settings(ctx))
    hybrid = explainer.attribute(x, classes, hybrid=True)
    for name, maps in (("aha_hybrid", hybrid), ("chefer", chefer.attribute(x, classes))):
        for unit, ranked in (
            ("pixels", maps), ("patches", rank_cells(maps, side, seeds)),
            ("shifted", rank_cells(maps, side, seeds, side // 2)),
            ("scattered", scatter(maps, units.STRENGTH, seeds)),
        ):  # fmt: skip
            assert table.srg[name, unit] == pytest.approx(contract_srg(ctx, ranked, images), abs=2e-7)
            labels = common.HeldOutImages.read(ctx, explainer.target, indices).labels
            accuracy = perturbation_accuracy(explainer.target, x, removal_order(ranked, seeds), labels, 8)
            row = table.loc[(name, unit)]
            for column, values in (("pos", accuracy.positive), ("neg", accuracy.negative)):
                assert row[column] == pytest.approx(float(values.mean()), rel=1e-4)
                assert 0 <= row[f"{column}_low"] <= row[column] <= row[f"{column}_high"] <= 91
    row = table.loc["chefer", "patches"]
    assert row.minus_pixels == pytest.approx(row.srg - table.srg["chefer", "pixels"], abs=1e-6)
    assert row.minus_one_pass == pytest.approx(row.srg - table.srg["aha_t0", "patches"], abs=1e-6)
    (study,), _ = read_studies(ctx)
    assert study.id == "study-units" and "whole patches of 8 px" in study.sentences[0]
    assert "POS" in study.sentences[1]

    monkeypatch.setattr(units, "rank_cells", lambda *_: pytest.fail("made again"))
    first = (out / "units.csv").read_bytes()
    units.run(ctx, out, images=images, steps=1, patch=side, methods=("chefer", "centre"))
    assert (out / "units.csv").read_bytes() == first
    with pytest.raises(ConfigError, match="--patch 7: an even number"):
        units.run(ctx, out, images=images, patch=7)


def test_refinement_settings_are_compared_on_training_images(ctx, workspace, change, monkeypatch, capsys):
    change("evaluate", precision="fp32")
    ctx = Context.create(workspace, device="cpu")
    out, images = ctx.paths.outputs / "study", 4
    tried = ["steps=0", "steps=0, hybrid=false", "lr=0.4,fractions=2", "references=[black, blur]"]

    def study() -> pd.DataFrame:
        refinement_study.run(ctx, out, tried, images=images)
        return pd.read_csv(out / "refinement.csv").set_index("setting")

    table = study()
    assert "references = [black," in capsys.readouterr().err  # no markup
    assert files(out) == {"refinement.csv", "refinement.json", "refinement.png"}
    names = [
        "preset",
        "steps = 0",
        "steps = 0, hybrid = false",
        "lr = 0.4, fractions = 2",
        "references = [black, blur]",
    ]
    assert table.index.tolist() == names
    assert table.passes.tolist() == [1 + 3 + 2 * 18, 1 + 3, 1, 1 + 3 + 2 * 36, 1 + 3 + 2 * 12]

    dataset = PreparedImages(ctx.paths.data, "train")
    indices = evaluation_indices(images, len(dataset))
    x = dataset.batch(indices)[0].float() / 255
    classes = Target.load(ctx.paths.target).probabilities(x).argmax(dim=1)
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    once = explainer.attribute(x, classes)
    for name, maps in zip(names, (
        explainer.attribute(x, classes, steps=2), explainer.attribute(x, classes, hybrid=True), once,
    ), strict=False):  # fmt: skip
        assert table.srg[name] == pytest.approx(contract_srg_of(ctx, maps, x, classes, indices), abs=2e-7)
    labels = common.logit_labels(ctx, explainer.target, "train")[indices]
    seeds = [ctx.params.seed * SEED_STREAM + index for index in indices]
    accuracy = perturbation_accuracy(explainer.target, x, removal_order(once, seeds), labels, 8)
    row, preset = table.loc["steps = 0, hybrid = false"], table.loc["preset"]
    for column, values in (("pos", accuracy.positive), ("neg", accuracy.negative)):
        assert row[column] == pytest.approx(float(values.mean()), rel=1e-4)
    assert row.srg == pytest.approx(row[list(ctx.params.evaluate.references)].mean(), abs=1e-6)
    assert row.difference == pytest.approx(row.srg - preset.srg, abs=1e-6)
    assert row.black_difference == pytest.approx(row.black - preset.black, abs=1e-6)
    assert row.neg_difference_low <= row.neg_difference <= row.neg_difference_high
    assert preset.filter(like="difference").isna().all()
    facts = json.loads((out / "refinement.json").read_text())
    assert facts["split"] == "train" and facts["preset"]["steps"] == 2 and str(workspace) not in json.dumps(facts)
    (study_in_report,), _ = read_studies(ctx)
    assert study_in_report.id == "study-refinement" and table.difference.idxmax() in study_in_report.sentences[0]

    parts = sorted((workspace / ".aha/studies").rglob("*.safetensors"))
    assert len(parts) == len(names)
    parts[0].unlink()  # a run that was killed
    made: list[str] = []
    monkeypatch.setattr(refinement_study, "scores", counted(refinement_study.scores, made))
    pd.testing.assert_frame_equal(study(), table)
    assert len(made) == 1


def test_refinement_settings_that_cannot_be_are_refused(ctx, workspace):
    for text, message in (
        ("grid", "--set 'grid': write NAME=VALUE"),
        ("gird=56", "--set: unknown parameter refine.gird = 56; allowed here: change, fractions, grid"),
        ("lr=-1", r"--set: refine.lr = -1: input should be greater than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            refinement_study.run(ctx, workspace / "study", [text])
    assert not (workspace / "study").exists()


def test_refinement_settings_are_the_neighbours_where_none_are_named(ctx, change, workspace):
    def names() -> list[str]:
        params = Context.create(workspace, device="cpu").params
        return [refinement_study.variant(params, one).name for one in refinement_study.neighbours(params)]

    change("refine", grid=8, lr=0.2, tau=0.15, hybrid_weight=0.4)
    start = ["steps = 0", "steps = 0, hybrid = false"]
    steps = ["lr = 0.1", "lr = 0.4", "tau = 0.075", "tau = 0.3"]
    weights = ["hybrid_weight = 0.2", "hybrid_weight = 0.8"]
    assert names() == ["grid = 4", "grid = 16", *steps, *weights, "optimiser = adam", "hybrid = false", *start]
    change("refine", grid=112, hybrid=False, optimiser="adam")  # 112 is 16 where images have 32 pixels
    assert names() == ["grid = 8", *steps, "optimiser = normalised", "hybrid = true", *start]
    change("refine", change="decoder")
    assert names() == ["grid = 8", *steps, "hybrid = true", *start]


def test_units_need_patches():
    model = create_model("resnet10t", 3, 64)
    with pytest.raises(ConfigError, match="resnet10t has no square patches; give a side in pixels by --patch"):
        units.patch_side(Target("resnet10t", model, 64, ["a", "b", "c"]))
    for whole in (8, (8, 8)):  # timm has both
        model.patch_embed = SimpleNamespace(patch_size=whole)
        assert units.patch_side(Target("resnet10t", model, 64, ["a", "b", "c"])) == 8


def test_another_explainers_tradeoff_is_not_logged_to_the_pipelines_run(ctx, workspace, logged):
    other, out = save_untrained(ctx, workspace / "other", seed=1), workspace / "study"
    with pytest.raises(ConfigError, match="unknown method 'cheffer'"):
        tradeoff.run(ctx, out, methods=("cheffer",))
    tradeoff.run(
        ctx, out, steps=0, fractions=(1,), rise_masks=(2,), images=9, explainer_folder=other, methods=("rise",)
    )
    assert pd.read_csv(out / "tradeoff.csv").method.tolist() == ["aha", "rise"]
    facts = json.loads((out / "tradeoff.json").read_text())
    assert facts["images"] == 9 > ctx.params.evaluate.images and not facts["own_explainer"]
    assert not logged


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
