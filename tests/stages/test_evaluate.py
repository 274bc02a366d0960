"""The stage as a whole: what it writes, that it continues after a kill, and what a failing method does to it."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aha_core import checks
from aha_core.baselines import BASELINES
from aha_core.evaluation import ChunkEvaluator
from aha_core.measures import BY_REFERENCE, REFERENCE_FREE
from stages import evaluate, fastshap, train
from stages.context import Context
from stages.methods import scored_methods
from stages.reporting import results
from tests.stages.conftest import refined
from tests.stages.quiet import METHODS, Quiet


@pytest.fixture
def ctx(evaluation) -> Context:
    return evaluation


def outputs(ctx: Context) -> dict[str, bytes]:
    return outputs_of(ctx.paths.evaluation) | outputs_of(ctx.paths.metrics) | outputs_of(ctx.paths.plots)


def outputs_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_tables_and_summary(ctx, change):
    measures = [*BY_REFERENCE, *REFERENCE_FREE]
    change("evaluate", measures=measures, slices=["confidence", "correct", "object_size"])
    ctx = Context.create(ctx.paths.root, workers=0)
    evaluate.run(ctx)
    names = ["aha_t0", "aha_t1", "aha_hybrid", *METHODS]
    rows = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    assert len(rows) == 6 * len(names) * 3 and not rows.isna().any().any()
    assert not rows.duplicated(["image", "method", "class", "reference"]).any()
    assert {"mas", "saco", "single_deletion"} <= set(rows.columns)
    free = pd.read_parquet(ctx.paths.evaluation / "reference_free.parquet")
    assert len(free) == 6 * len(names) and {"pos", "neg", "pos_neg", "road", "gini"} <= set(free.columns)
    places = pd.read_parquet(ctx.paths.evaluation / "localisation.parquet")
    perfect = places[places["method"] == "aha_t1"]
    assert (perfect[["energy", "best_iou", "average_precision", "boundary"]] == 1).all().all()
    with np.load(ctx.paths.evaluation / "curves.npz") as curves:
        assert curves["grad_cam/predicted/blur"].shape == (2, 6, 3)
    with np.load(ctx.paths.evaluation / "gallery.npz") as gallery:
        assert gallery["predicted/centre"].shape == (3, 32, 32)
    slices = pd.read_csv(ctx.paths.evaluation / "slices.csv")
    assert set(slices["column"]) == {"confidence", "correct", "object_size"}
    assert (slices[slices["method"] == "aha_t0"].groupby("column")["images"].sum() == 6).all()

    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert summary["not_applicable"] == {} and "failures" not in summary
    assert set(summary["ranks"]["methods"]) == set(names)
    assert summary["passes_per_map"]["grad_cam"] == {"forward": 1.0, "gradients": 1.0}
    assert summary["passes_per_map"]["aha_hybrid"] == {"forward": 2.0, "gradients": 1.0}
    assert summary["localisation"]["aha_t1"]["energy"]["mean"] == 1
    assert "seconds_per_map/grad_cam" in Quiet.metrics
    runtime = pd.read_csv(ctx.paths.state / "runtime.csv").set_index("method")
    assert list(runtime.index) == ["aha_t0", "aha_hybrid", *METHODS] and (runtime["maps"] == 6).all()
    assert (runtime["seconds_per_map"] > 0).all() and runtime.loc["grad_cam", ["forward", "gradients"]].tolist() == [
        1,
        1,
    ]
    text = json.dumps(summary)
    assert "seconds" not in text and str(ctx.paths.root) not in text
    assert not list((ctx.paths.state / "evaluation").iterdir())  # nothing left behind


def test_killed_and_continued_gives_the_same_bytes(ctx, monkeypatch):
    evaluate.run(ctx)
    whole = outputs(ctx)
    centre = BASELINES["centre"].factory
    calls = []

    def killed(self, x, classes):
        calls.append(len(x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, x, classes)

    original = centre._maps
    monkeypatch.setattr(centre, "_maps", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(ctx)
    evaluate.run(ctx)
    assert calls == [4, 2, 2]  # the first chunk was not computed again
    assert outputs(ctx) == whole


def test_the_number_of_workers_does_not_matter(ctx):
    evaluate.run(ctx)
    whole = outputs(ctx)
    target = evaluate.Target.load(ctx.paths.target)
    methods, _ = scored_methods(ctx, target)
    names = ["aha_t0", "aha_t1", "aha_hybrid", *METHODS]
    plan = evaluate.planned(ctx, 1, methods, 6)
    assert plan == {0: names, 4: names}
    store = evaluate.PartStore(evaluate.store_folder(ctx))
    for rank in (1, 0):
        evaluate.score(ctx, target, methods, plan, store, rank, world=2)
    for name in names:
        assert store.has("predicted", 0, name) and store.has("predicted", 4, name)
    evaluate.run(ctx)
    assert outputs(ctx) == whole


def test_only_files_of_the_explainers_folder_count(ctx):
    before = evaluate.store_folder(ctx)
    (ctx.paths.explainer / "notes").mkdir()
    (ctx.paths.explainer / "params.yaml").symlink_to("nowhere")  # `cp -r` of a link
    assert evaluate.store_folder(ctx) == before
    (ctx.paths.explainer / "more.json").write_text("{}")
    assert evaluate.store_folder(ctx) != before


def test_slow_methods_are_scored_on_the_first_chunks_only_in_the_type_of_scoring(ctx, change, monkeypatch):
    change(
        "evaluate",
        slow={"methods": ["chefer", "grad_cam"], "measures": ["pos_neg", "saco"], "images": 3},
        precision="bf16",
    )
    types: dict[str, set[bool]] = {}
    for name in ("grad_cam", "centre"):
        method = BASELINES[name].factory

        def seen(self, x, classes, name=name, original=method._maps):
            types.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return original(self, x, classes)

        monkeypatch.setattr(method, "_maps", seen)
    ctx = Context.create(ctx.paths.root, workers=0)
    evaluate.run(ctx)
    scores = json.loads((ctx.paths.metrics / "evaluation.json").read_text())["scores"]["predicted"]
    images = {name: values["images"] for name, values in scores.items()}
    assert types == {"grad_cam": {True}, "centre": {False}}
    assert images == {"aha_t0": 6, "aha_t1": 6, "aha_hybrid": 6, "random": 6, "centre": 6, "grad_cam": 4, "chefer": 4}
    rows = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    first = rows[rows["method"] == "aha_t0"]["index"].unique()[:4]
    assert set(rows[rows["method"] == "chefer"]["index"]) == set(first)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    for method in ("aha_t1", "centre", "chefer"):
        assert summary["scores"]["predicted"][method]["saco"]["n"] == 4
        assert summary["reference_free"][method]["pos"]["n"] == 4
    assert summary["reference_free"]["chefer"]["aha_t1_minus_this"]["pos_neg"]["n"] == 4
    assert set(rows[rows["saco"].notna()]["index"]) == set(first)


def test_checks_ask_methods_for_new_maps(ctx, change, monkeypatch):
    chosen = checks.choose_cells

    def every_image(classes, confidences, side, count, seed):
        """The small target tells few classes apart: whatever it says, all images play."""
        return chosen(range(len(classes)), [1.0] * len(classes), side, count, seed)

    monkeypatch.setattr(checks, "choose_cells", every_image)
    config = {
        "methods": ["aha", "aha_t0", "aha_hybrid", "aha_t1", "centre", "grad_cam"],
        "images": 2,
        "mosaics": 2,
        "sides": [2, 3],
        "draws": 2,
        "depths": 2,
    }
    change("evaluate", checks=config, images=20)
    ctx = refined(ctx.paths.root)
    evaluate.run(ctx)
    rows = pd.read_parquet(ctx.paths.evaluation / "checks.parquet")
    assert set(rows["method"]) == set(config["methods"])
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())["checks"]
    assert summary["aha"] == summary["aha_t0"]
    assert len({summary[name]["max_sensitivity"]["mean"] for name in ("aha", "aha_hybrid", "aha_t1")}) == 3
    centre = summary["centre"]
    assert centre["max_sensitivity"]["mean"] == 0 and all(one["mean"] == 1 for one in centre["spearman"].values())
    for method in ("aha", "grad_cam"):
        assert summary[method]["max_sensitivity"]["mean"] > 0
        assert list(summary[method]["spearman"].values())[-1]["mean"] < 0.95
        assert len(summary[method]["ssim"]) == 2
    for side in (2, 3):
        grid = rows[rows["check"] == f"grid_{side}x{side}"]
        assert (grid.groupby(["method", "image"])["value"].count() == side * side).all()
        assert set(grid["image"]) == {0, 1}
        fixed = rows[rows["method"] == "centre"]  # the same map for all cells
        for kind in ("", "_hit"):
            own = fixed[fixed["check"] == f"grid_{side}x{side}{kind}"].groupby("image")["value"]
            np.testing.assert_allclose(own.sum(), 1, atol=1e-5)


def test_scoring_holds_one_chunk_at_a_time(ctx, monkeypatch):
    """Images, references and probabilities belong to a chunk's evaluator; of the chunks before, nothing is left."""
    alive, most = weakref.WeakSet(), []
    original = ChunkEvaluator.score

    def counted(self, *arguments):
        alive.add(self)
        most.append(len(alive))
        return original(self, *arguments)

    monkeypatch.setattr(ChunkEvaluator, "score", counted)
    ctx = replace(ctx, params=ctx.params.model_copy(update={"resources": resources_of(ctx, batch_size=1)}))
    evaluate.run(ctx)
    assert len(most) > 6 and max(most) <= 2  # the next one is built before the name lets go of the last


def resources_of(ctx: Context, **changes):
    return ctx.params.resources.model_copy(update=changes)


def test_a_grid_that_cannot_be_filled_says_why(ctx, change):
    config = {"methods": ["centre"], "images": 1, "mosaics": 1, "sides": [5], "draws": 1, "depths": 1}
    change("evaluate", checks=config)
    evaluate.run(Context.create(ctx.paths.root, workers=0))
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())["checks"]["centre"]
    assert summary["skipped"].startswith("5 x 5: ") and "do not fill one mosaic of 5 x 5" in summary["skipped"]
    both = {"centre": summary, "aha": summary}
    (note,) = results.notes({"not_applicable": {}, "checks": both})  # once, not by method
    assert note.startswith("Grid pointing was not played on 5 x 5: ")


def test_bf16_states_its_error(ctx, change):
    change("evaluate", precision="bf16")
    evaluate.run(Context.create(ctx.paths.root, workers=0))
    precision = json.loads((ctx.paths.metrics / "evaluation.json").read_text())["precision"]
    assert precision["type"] == "bf16" and 0 < precision["mean_error"] < precision["max_error"] < 0.05
    assert 0 < precision["srg_mean_error"] <= precision["srg_max_error"] < 0.05
    assert abs(precision["srg_shift"]) <= precision["srg_mean_error"]
    (note,) = results.notes({"not_applicable": {}, "precision": precision})
    assert f"SRG of one pass differs by {precision['srg_mean_error']:.2g} on average" in note


def test_methods_that_do_not_apply_are_named_and_have_no_row(ctx, change, monkeypatch):
    spec = BASELINES["grad_cam"]
    other = type(spec)(spec.name, spec.description, spec.factory, spec.passes, lambda target: "needs a moon")
    monkeypatch.setitem(BASELINES, "grad_cam", other)
    evaluate.run(ctx)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert summary["not_applicable"] == {"grad_cam": "needs a moon"}
    assert "grad_cam" not in summary["scores"]["predicted"]


def test_the_report_shows_what_was_stored(ctx, change, monkeypatch):
    from stages import report

    change("evaluate", precision="bf16", max_failed=1.0)
    ctx = Context.create(ctx.paths.root, workers=0)
    centre = BASELINES["centre"].factory
    original = centre._maps
    holes = torch.tensor([torch.nan, 1.0]).repeat(2).view(-1, 1, 1, 1)  # every other image
    monkeypatch.setattr(centre, "_maps", lambda self, x, classes: original(self, x, classes) * holes[: len(x)])
    evaluate.run(ctx)
    monkeypatch.setattr(report, "Tracker", Quiet)
    (ctx.paths.plots / "training.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    report.run(ctx)
    html = (ctx.paths.report / "index.html").read_text()
    assert (ctx.paths.report / "ranks.png").is_file()
    assert "- Score: softmax probability of the class" in (ctx.paths.report / "tables.md").read_text()
    for words in (
        "Mean ranks",
        "Centre gave no usable map for 3 of 6 images",
        "Scored in bf16",
        "MAS: curves penalised",
    ):
        assert words in html, words


def test_the_learned_baseline_is_trained_and_evaluated(ctx, change, monkeypatch):
    change("evaluate", methods=["centre", "fastshap"])
    ctx = Context.create(ctx.paths.root, workers=0)
    own = outputs_of(ctx.paths.explainer)
    fastshap.run(ctx)
    assert json.loads((ctx.paths.fastshap / "fastshap.json").read_text())["trained"] is False
    evaluate.run(ctx)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert "fastshap.train: true" in summary["not_applicable"]["fastshap"]
    assert "fastshap" not in summary["scores"]["predicted"]

    change("fastshap", train=True)
    ctx = Context.create(ctx.paths.root, workers=0)
    monkeypatch.setattr(train, "Tracker", Quiet)
    fastshap.run(ctx)
    curve = pd.read_csv(ctx.paths.fastshap / "training.csv")
    assert list(curve["step"]) == [1, 2, 3, 4, 5, 6] and {"loss", "inefficiency"} <= set(curve.columns)
    assert not list((ctx.paths.state / "training").iterdir())  # its checkpoints
    assert outputs_of(ctx.paths.explainer) == own and not ctx.paths.run.exists()  # AHA's own are not touched
    evaluate.run(ctx)
    rows = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    assert len(rows[rows["method"] == "fastshap"]) == 6 * 3
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert summary["not_applicable"] == {} and summary["passes_per_map"]["fastshap"]["forward"] == 2
