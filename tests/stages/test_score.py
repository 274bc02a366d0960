"""`aha score`: the same maps get the same rows as in `aha evaluate`; it deletes nothing but its own earlier results."""

import json

import numpy as np
import pandas as pd
import pytest

from aha_core.errors import AhaError, AttributionError
from stages import evaluate, score
from stages.context import Context
from stages.images import evaluated
from tests.stages.conftest import refined
from tests.stages.quiet import Quiet


@pytest.fixture
def ctx(workspace, change, monkeypatch) -> Context:
    monkeypatch.setattr(evaluate, "Tracker", Quiet)
    change("evaluate", methods=["centre"], measures=["mas", "sparseness"], slices=[], points=3, bootstrap=10)
    change("evaluate", checks={"methods": [], "images": 1, "mosaics": 1, "sides": [2], "draws": 1, "depths": 1})
    change("resources", batch_size=4, threads=1)
    return refined(workspace)


@pytest.fixture
def folder(ctx, tmp_path):
    """AHA's own refined maps, handed in as another tool's, in reversed order."""
    dataset, indices = evaluated(ctx, "test")
    maps = np.load(ctx.paths.refined / "maps_predicted.npy")[:, 1, 0]
    own = tmp_path / "maps"
    own.mkdir()
    lines = ["image,file"]
    for place in reversed(range(len(indices))):
        np.save(own / f"{place}.npy", maps[place])
        lines.append(f"{dataset.name(indices[place])},{place}.npy")
    (own / "manifest.csv").write_text("\n".join(lines) + "\n")
    return own


def test_same_maps_same_rows(ctx, folder, tmp_path):
    evaluate.run(ctx)
    summary = score.run(ctx, folder, "theirs", tmp_path / "out")
    theirs = pd.read_parquet(tmp_path / "out/scores.parquet")
    ours = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    assert list(theirs["method"].unique()) == ["theirs", "centre"]
    columns = ["image", "class", "reference", "deletion", "insertion", "mas"]
    for name, same in (("theirs", "aha_t1"), ("centre", "centre")):
        pd.testing.assert_frame_equal(
            theirs[theirs["method"] == name][columns].sort_values(columns[:3]).reset_index(drop=True),
            ours[ours["method"] == same][columns].sort_values(columns[:3]).reset_index(drop=True),
            atol=2e-6,
        )
    assert list(summary["against"]) == ["aha_t0", "aha_t1", "centre"]
    assert summary["against"]["aha_t1"]["mean"] == pytest.approx(0, abs=1e-4) and summary["against"]["aha_t0"]["n"] == 6
    stored = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    reference = stored["scores"]["predicted"]
    for own, same in ((summary["scores"], reference["aha_t1"]), (summary["centre"], reference["centre"])):
        assert own["srg"]["mean"] == pytest.approx(same["srg"]["mean"], abs=2e-4)
    gap = summary["against"]["centre"]
    assert gap["mean"] == pytest.approx(summary["centre"]["srg"]["mean"] - summary["scores"]["srg"]["mean"], abs=2e-4)
    assert gap.keys() == reference["centre"]["aha_t0_minus_this"].keys()
    assert list(summary["localisation"]) == ["theirs", "centre"]
    assert summary["localisation"]["theirs"]["energy"]["mean"] == 1
    for own, same in (("theirs", "aha_t1"), ("centre", "centre")):
        assert means(summary["localisation"][own]) == pytest.approx(means(stored["localisation"][same]), abs=2e-4)
    assert any("softmax probability" in line for line in summary["contract"])
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary


def means(localisation):
    """Of every measure, those of the off-centre images among them."""
    away = localisation["off_centre"]
    flat = localisation | {f"off_centre/{name}": values for name, values in away.items()}
    return {name: values["mean"] for name, values in flat.items() if name != "off_centre"}


def test_works_without_an_evaluation_and_for_other_classes(ctx, folder, tmp_path):
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join(["image,file,class", *(f"{line},2" for line in lines[1:4])]))
    summary = score.run(ctx, folder, "theirs", tmp_path / "out")
    assert list(summary["against"]) == ["centre"] and summary["scores"]["srg"]["n"] == 3
    assert summary["centre"]["srg"]["n"] == 3
    assert set(pd.read_parquet(tmp_path / "out/scores.parquet")["class"]) == {2}


def test_errors_come_before_any_scoring(ctx, folder, tmp_path):
    with pytest.raises(AttributionError, match="'aha_t9' is reserved"):
        score.run(ctx, folder, "aha_t9", tmp_path / "out")
    np.save(folder / "0.npy", np.full((32, 32), np.nan))
    with pytest.raises(AttributionError, match="0.npy for .*1024 of 1024 values are NaN"):
        score.run(ctx, folder, "x", tmp_path / "out")
    (folder / "manifest.csv").write_text("image,file\nnowhere.png,1.npy\n")
    with pytest.raises(AttributionError, match=r"1 images are not in the test split \(nowhere.png\); names look like"):
        score.run(ctx, folder, "x", tmp_path / "out")
    (folder / "manifest.csv").write_text("image,file,class\nnowhere.png,1.npy,zebra\n")
    with pytest.raises(AhaError):
        score.run(ctx, folder, "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def nothing_loads(monkeypatch):
    def load(*_arguments):
        raise AssertionError("scoring began")

    monkeypatch.setattr(score.Target, "load", load)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../up", "a/b", "a b", "é", "a\n"])
def test_a_name_is_the_name_of_a_folder(ctx, folder, tmp_path, nothing_loads, name):
    with pytest.raises(AttributionError, match=r"--method-name .*: allowed are ASCII letters, digits") as error:
        score.run(ctx, folder, name, tmp_path / "out")
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["aha_t9", "aha_hybrid", "centre"])
def test_reserved_names(ctx, folder, tmp_path, nothing_loads, name):
    with pytest.raises(AttributionError, match=f"'{name}' is reserved"):
        score.run(ctx, folder, name, tmp_path / "out")


@pytest.mark.parametrize("out", ["maps", "maps/scores", ".", "maps/../maps", "link", "maps/nowhere/deeper"])
def test_out_keeps_away_from_the_maps(ctx, folder, tmp_path, nothing_loads, out):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "summary.json").write_text('{"method": "x", "contract": []}')
    with pytest.raises(AttributionError, match=r"--out .* the folder of the maps .* choose a folder outside of it"):
        score.run(ctx, folder, "x", tmp_path / out)
    assert (folder / "0.npy").is_file()


@pytest.mark.parametrize("summary", [None, "[]", "no json", '{"scores": {}}', '{"method": "x"}', "a folder"])
def test_out_with_something_else_is_refused(ctx, folder, tmp_path, nothing_loads, summary):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    if summary == "a folder":
        (out / "summary.json").mkdir()
    elif summary is not None:
        (out / "summary.json").write_text(summary)
    for goal in (out, out / "thesis.tex"):
        with pytest.raises(AttributionError, match=f"{goal.name} holds something else .* choose a new or empty folder"):
            score.run(ctx, folder, "x", goal)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_and_an_earlier_result_are_replaced(ctx, folder, tmp_path):
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join(lines[:3]) + "\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    score.run(ctx, folder, "first", tmp_path / "out")
    score.run(ctx, folder, "second", tmp_path / "link")
    assert json.loads((tmp_path / "out/summary.json").read_text())["method"] == "second"
    assert set(pd.read_parquet(tmp_path / "out/scores.parquet")["method"]) == {"second", "centre"}


def test_why_there_is_no_comparison_is_said(ctx, change, monkeypatch):
    said = []
    monkeypatch.setattr(Context, "say", lambda self, message: said.append(message))
    evaluate.run(ctx)
    rows = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    mine = rows[rows["method"] == "aha_t1"].drop(columns="method")
    said.clear()
    rounded = mine.assign(probability=mine["probability"] + 0.015)
    assert len(score.comparable(ctx, mine)) == len(score.comparable(ctx, rounded)) == len(rows) and not said

    other_target = mine.assign(probability=mine["probability"].where(mine["index"] != mine["index"].iloc[0], 2.0))
    other_images = mine.assign(image="other/" + mine["image"])
    other_references = mine[mine["reference"] == "black"]
    change("evaluate", precision="bf16")
    bf16 = Context.create(ctx.paths.root, workers=0)
    for where, own, why in (
        (ctx, other_target, "belongs to another target"),
        (ctx, other_images, "none of these images"),
        (ctx, other_references, "other references or points"),
        (bf16, mine, "was scored in fp32 instead of bf16"),
    ):
        assert score.comparable(where, own) is None
        assert why in said.pop() and not said
    (ctx.paths.metrics / "evaluation.json").unlink()  # then the precision is not known
    assert score.comparable(bf16, mine) is not None
