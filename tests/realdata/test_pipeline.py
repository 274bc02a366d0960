"""The real profile, cut to a few images and steps: pretrained weights, class folders named by WordNet ids."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from aha_core.config import load_params
from stages import evaluate, explain, prepare, refine, report, target, train
from stages.context import Context
from stages.explained import Request
from tests.conftest import ROOT

DATA = os.environ.get("AHA_REAL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="AHA_REAL_DATA is not set")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("real")
    for split, count in (("train", 8), ("val", 4)):
        for folder in sorted(Path(DATA, "imagenette224", split).iterdir()):
            (root / "images" / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, root / "images" / split / folder.name)
    raw = load_params(ROOT / "configs/vit-tiny-imagenette.yaml").model_dump(mode="json")
    raw["data"]["folder"] |= {"root": str(root / "images"), "val_fraction": 0.2}
    raw["train"] |= {"steps": 2, "batch_size": 2, "report_every": 1, "checkpoint_every": 2}
    raw["refine"] |= {"steps": 1, "fractions": 1}
    raw["evaluate"] |= {"images": 4, "points": 3, "methods": ["centre", "chefer"], "bootstrap": 50, "gallery": 4}
    raw["evaluate"]["checks"] |= {"methods": ["aha", "centre"], "images": 1, "mosaics": 1, "draws": 1, "depths": 1}
    raw["report"] |= {"gallery": 4, "strip": 2}
    raw["resources"] |= {"workers": 0, "batch_size": 8}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    return root


@pytest.mark.timeout(600)
def test_pipeline_on_real_images(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    ctx = Context.create(workspace)
    for stage in (prepare, target, train, refine, evaluate, report):
        stage.run(ctx)
    accuracy = json.loads((workspace / "outputs/metrics/target.json").read_text())
    assert accuracy["top1"] > 0.7  # WordNet ids met ImageNet's logits
    rows = pd.read_parquet(workspace / "outputs/evaluation/scores.parquet")
    assert sorted(rows["method"].unique()) == ["aha_hybrid", "aha_t0", "aha_t1", "centre", "chefer"]
    assert len(rows) == 5 * 4 * 3
    page = (workspace / "outputs/report/index.html").read_text()
    assert str(workspace) not in page
    images = [str(image) for image in sorted((workspace / "images/val").glob("*/*"))[:2]]
    assert explain.run(ctx, Request(images, workspace / "maps", class_="tench")) == 0
    assert len(list((workspace / "maps").glob("*_overlay.jpg"))) == 2
