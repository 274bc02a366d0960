"""What failing methods and checks do to an evaluation: they are recorded, the rest goes on, the exit is not 0."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from aha_core.baselines import BASELINES
from aha_core.errors import AttributionError, ConfigError
from aha_core.evaluation import pictured
from stages import evaluate
from stages.context import Context
from stages.images import evaluated
from stages.reporting import results


@pytest.fixture
def ctx(evaluation) -> Context:
    return evaluation


def test_failures_of_a_slow_method_are_a_share_of_its_own_images(ctx, change, monkeypatch):
    change("evaluate", slow={"methods": ["centre"], "measures": [], "images": 3}, max_failed=0.4)
    ctx = Context.create(ctx.paths.root, workers=0)
    centre = BASELINES["centre"].factory
    monkeypatch.setattr(centre, "_maps", lambda self, x, classes: x[:, :1] * torch.nan)
    with pytest.raises(AttributionError, match=r"centre gave no usable map for 4 of 4 images"):
        evaluate.run(ctx)


@pytest.mark.parametrize("way", ["raises", "nan", "shape"])
def test_a_method_that_fails_on_some_images(ctx, change, monkeypatch, way):
    centre = BASELINES["centre"].factory
    original = centre._maps
    dataset, indices = evaluated(ctx, "test")
    bad = dataset.batch(indices[1:2])[0][0].float() / 255

    def failing(self, x, classes):
        maps = original(self, x, classes).clone()
        for place, image in enumerate(x):
            if image.equal(bad):
                if way == "raises":
                    raise RuntimeError("on purpose")
                if way == "shape":
                    return maps.expand(-1, 2, -1, -1)
                maps[place] = torch.nan
        return maps

    monkeypatch.setattr(centre, "_maps", failing)
    with pytest.raises(AttributionError, match=r"centre gave no usable map .* evaluate.max_failed = 0.01"):
        evaluate.run(ctx)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert summary["failures"]["centre"]["failed"] == 1 and summary["failures"]["centre"]["of"] == 6
    failures = pd.read_parquet(ctx.paths.evaluation / "failures.parquet")
    assert set(failures["method"]) == {"centre"} and len(failures) == 1
    rows = pd.read_parquet(ctx.paths.evaluation / "scores.parquet")
    assert (rows.groupby("method")["index"].nunique() == 6).sum() == 5
    assert rows[rows["method"] == "centre"]["index"].nunique() == 5
    assert summary["scores"]["predicted"]["centre"]["aha_t0_minus_this"]["n"] == 5

    change("evaluate", max_failed=0.9)
    evaluate.run(Context.create(ctx.paths.root, workers=0))  # tolerated, still recorded
    monkeypatch.setattr(centre, "_maps", original)


def test_failed_parts_are_tried_again(ctx, monkeypatch):
    centre = BASELINES["centre"].factory
    original = centre._maps
    monkeypatch.setattr(centre, "_maps", lambda self, x, classes: original(self, x, classes) * torch.nan)
    with pytest.raises(AttributionError, match="6 of 6"):
        evaluate.run(ctx)
    assert "centre" not in json.loads((ctx.paths.metrics / "evaluation.json").read_text())["scores"]["predicted"]
    monkeypatch.setattr(centre, "_maps", original)
    evaluate.run(ctx)
    assert not (ctx.paths.evaluation / "failures.parquet").exists()


def test_the_gallery_keeps_its_images_when_our_own_map_fails(ctx, change):
    file = ctx.paths.refined / "maps_predicted.npy"
    maps = np.load(file)
    maps[1] = np.nan
    np.save(file, maps)
    change("evaluate", max_failed=1.0)
    ctx = Context.create(ctx.paths.root, workers=0)
    evaluate.run(ctx)
    shown = results.load(ctx)
    dataset, indices = evaluated(ctx, "test")
    assert shown.places == indices[:3]
    for place, image in zip(shown.places, shown.images, strict=True):
        assert torch.from_numpy(image).equal(dataset.image(place).permute(1, 2, 0))
    assert not shown.gallery["aha_t0"][1].any()  # the failed one
    kept = pictured(torch.from_numpy(maps[2, 0]).float())[0]
    np.testing.assert_array_equal(shown.gallery["aha_t0"][2], kept)


@pytest.mark.parametrize("value", [torch.nan, None])
def test_a_failing_check_is_recorded(ctx, change, monkeypatch, value):
    change("evaluate", checks={"methods": ["centre"], "images": 1, "mosaics": 1, "sides": [], "draws": 1, "depths": 1})
    ctx = Context.create(ctx.paths.root, workers=0)
    centre = BASELINES["centre"].factory
    original = centre._maps

    def moved(self, x, classes):
        if len(x) == 1:
            if value is None:
                raise RuntimeError("one image is not enough")
            return original(self, x, classes) * value
        return original(self, x, classes)

    monkeypatch.setattr(centre, "_maps", moved)
    with pytest.raises(AttributionError, match="the checks of centre failed .* tries them again"):
        evaluate.run(ctx)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    words = "one image is not enough" if value is None else "not finite"
    assert words in summary["checks"]["centre"]["failed"]
    monkeypatch.setattr(centre, "_maps", original)
    evaluate.run(ctx)
    assert "failed" not in json.loads((ctx.paths.metrics / "evaluation.json").read_text())["checks"]["centre"]


def test_a_method_that_cannot_be_built_fails_and_the_others_are_scored(ctx, change, monkeypatch):
    change("evaluate", max_failed=1.0)

    def broken(self, target, settings):
        raise RuntimeError("no such layer")

    monkeypatch.setattr(BASELINES["centre"].factory, "__init__", broken)
    evaluate.run(Context.create(ctx.paths.root, workers=0))
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert summary["failures"]["centre"] == {"failed": 6, "of": 6, "example": "RuntimeError: no such layer"}
    assert summary["scores"]["predicted"]["grad_cam"]["images"] == 6


def test_methods_without_a_common_image_are_ranked_as_far_as_they_have_one(ctx, change, monkeypatch):
    change("evaluate", slow={"methods": ["centre"], "measures": [], "images": 3}, max_failed=1.0)
    ctx = Context.create(ctx.paths.root, workers=0)
    dataset, indices = evaluated(ctx, "test")
    first = dataset.batch(indices[:4])[0].float() / 255  # the chunks on which the slow method is scored
    random = BASELINES["random"].factory
    original = random._maps

    def failing(self, x, classes):
        lost = torch.stack([(first == image).flatten(1).all(dim=1).any() for image in x])
        return torch.where(lost[:, None, None, None], torch.nan, original(self, x, classes))

    monkeypatch.setattr(random, "_maps", failing)
    evaluate.run(ctx)
    summary = json.loads((ctx.paths.metrics / "evaluation.json").read_text())
    assert "random" not in summary["ranks"]["methods"] and "centre" in summary["ranks"]["methods"]
    assert summary["scores"]["predicted"]["random"]["images"] == 2 and summary["ranks"]["images"] == 4


@pytest.mark.parametrize("place", ["methods", "slow", "checks"])
def test_an_unknown_method_is_refused_before_anything_is_scored(ctx, change, place):
    evaluation = ctx.params.evaluate.model_dump(mode="json")
    wrong = "aha_hybrid" if place == "methods" else "cheffer"  # ours are scored by themselves
    if place == "methods":
        change("evaluate", methods=[*evaluation["methods"], wrong])
    else:
        change("evaluate", **{place: evaluation[place] | {"methods": [wrong]}})
    with pytest.raises(ConfigError, match=f"unknown method '{wrong}'"):
        evaluate.run(Context.create(ctx.paths.root, workers=0))
    assert not (ctx.paths.state / "evaluation").exists()
