"""`aha score`: the same maps get the same rows as in `aha evaluate`."""

import json

import numpy as np
import pandas as pd
import pytest

from aha_core.errors import AhaError, AttributionError
from stages import evaluate, score
from stages.context import Context
from stages.images import evaluated
from tests.stages.test_evaluate import Quiet, refined


@pytest.fixture
def ctx(workspace, change, monkeypatch) -> Context:
    monkeypatch.setattr(evaluate, "Tracker", Quiet)
    change("evaluate", methods=[], measures=["mas", "sparseness"], slices=[], points=3, bootstrap=10)
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
    columns = ["image", "class", "reference", "deletion", "insertion", "mas"]
    pd.testing.assert_frame_equal(
        theirs[columns].sort_values(columns[:3]).reset_index(drop=True),
        ours[ours["method"] == "aha_t1"][columns].sort_values(columns[:3]).reset_index(drop=True),
        atol=2e-6,
    )
    assert summary["against"]["aha_t1"]["mean"] == pytest.approx(0, abs=1e-4) and summary["against"]["aha_t0"]["n"] == 6
    assert summary["localisation"]["energy"]["mean"] == 1
    assert any("softmax probability" in line for line in summary["contract"])
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary


def test_works_without_an_evaluation_and_for_other_classes(ctx, folder, tmp_path):
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join(["image,file,class", *(f"{line},2" for line in lines[1:4])]))
    summary = score.run(ctx, folder, "theirs", tmp_path / "out")
    assert summary["against"] == {} and summary["scores"]["srg"]["n"] == 3
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
