"""Chunks of a folder of which some images have boxes: localisation on those alone, whatever the chunk size."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from aha_core.data.dataset import PreparedImages
from aha_core.summary import HYBRID
from stages import evaluate, prepare, target
from stages.context import Context
from stages.images import evaluated, load
from tests.conftest import small_params
from tests.stages.conftest import untrained_explainer
from tests.stages.quiet import Quiet

STEADY = ["image", "class", "area", "energy", "average_precision"]  # a pixel that changes sides hardly moves these
BOXES = {"b/1.png": "4,4,20,28", "b/3.png": "0,0,8,8", "a/0.png": "10,2,30,30", "a/4.png": "1,1,9,30"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A workspace with four of twelve test images in the table of boxes, and a target."""
    root = tmp_path_factory.mktemp("boxes")
    source = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in [f"{kind}/{index}.png" for kind in "ab" for index in range(6)]:
            (root / f"images/{part}/{name}").parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.integers(0, 255, (32, 32, 3), np.uint8)).save(root / f"images/{part}/{name}")
    lines = ["image,x0,y0,x1,y1", *(f"val/{name},{box}" for name, box in BOXES.items())]
    (root / "boxes.csv").write_text("\n".join(lines))
    raw = small_params()
    raw["data"]["source"] = "folder"
    raw["data"]["folder"] |= {"root": str(root / "images"), "boxes": str(root / "boxes.csv")}
    raw["evaluate"] |= {"images": 12, "methods": ["random", "centre"], "points": 3, "measures": []}
    raw["evaluate"] |= {"references": ["black"], "slices": ["object_size"], "bootstrap": 10}
    raw["evaluate"]["checks"]["methods"] = []
    raw["resources"]["workers"] = 0
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    ctx = Context.create(root, device="cpu")
    prepare.run(ctx)
    target.run(ctx)
    return root


def test_a_chunk_with_some_masks(root):
    dataset = PreparedImages(Context.create(root).paths.data, "test")
    batch = load(dataset, list(range(12)), [0, 1], "cpu")
    known = {name for name, mask in zip(batch.names, batch.masks, strict=True) if mask.any()}
    assert known == {f"val/{name}" for name in BOXES} and batch.void is None
    place = batch.names.index("val/b/1.png")
    assert batch.masks[place, 0, 4:28, 4:20].all() and batch.masks[place].sum() == 24 * 16
    alone = batch.names.index("val/b/0.png")
    assert load(dataset, [alone], [0, 1], "cpu").masks is None


def test_the_evaluation_counts_the_images_with_boxes_whatever_the_chunks(root, monkeypatch):
    monkeypatch.setattr(evaluate, "Tracker", Quiet)
    tables = []
    for size in (1, 5, 12):
        raw = yaml.safe_load((root / "params.yaml").read_text())
        raw["resources"]["batch_size"] = size
        (root / "params.yaml").write_text(yaml.safe_dump(raw))
        ctx = Context.create(root, workers=0, device="cpu")
        untrained_explainer(ctx)
        save_maps(ctx)
        evaluate.run(ctx)
        places = pd.read_parquet(ctx.paths.evaluation / "localisation.parquet")
        assert set(places["image"]) == {f"val/{name}" for name in BOXES} and len(places) == 4 * 4
        assert len(pd.read_parquet(ctx.paths.evaluation / "scores.parquet")) == 12 * 4
        tables.append(places.drop(columns="probability").sort_values(["method", "image"]).reset_index(drop=True))
        slices = pd.read_csv(ctx.paths.evaluation / "slices.csv")
        assert slices.groupby("method")["images"].sum().eq(4).all()
    own = tables[0]["method"] == HYBRID  # the only one whose maps take passes, which round by their batches
    for table in tables[1:]:
        assert table[~own].equals(tables[0][~own])
        pd.testing.assert_frame_equal(table.loc[own, STEADY], tables[0].loc[own, STEADY], atol=0.02)


def save_maps(ctx):
    """Noise as AHA's maps."""
    _, indices = evaluated(ctx, "test")
    ctx.paths.refined.mkdir(parents=True, exist_ok=True)
    maps = np.random.default_rng(0).random((len(indices), 1, 1, 32, 32), np.float32)
    np.save(ctx.paths.refined / "maps_predicted.npy", maps)
    facts = {"indices": indices, "roles": ["predicted"], "steps": 0}
    (ctx.paths.refined / "images.json").write_text(json.dumps(facts))
