"""The explainer that comes with the library: it fits its target, and is what `aha explain` uses before any training."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from aha_core.attribution import Explainer
from aha_core.errors import AttributionError
from aha_core.sources import DEFAULT, SHIPPED, locate, shipped_target
from aha_core.targets import Target, create_model
from stages.context import Context
from stages.explain import run
from stages.explained import Request

MEGABYTE = 1e6


def test_every_shipped_explainer_is_small_has_a_card_and_fits_its_target():
    folders = [folder for folder in SHIPPED.iterdir() if folder.is_dir()]
    assert SHIPPED / DEFAULT in folders
    for folder in folders:
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * MEGABYTE
        assert "## Limits" in (folder / "MODEL_CARD.md").read_text()
        target = Target(folder.name, create_model(folder.name, 1000, 224), 224, [str(one) for one in range(1000)])
        maps = Explainer.load(folder.name, target).attribute(torch.rand(1, 3, 224, 224), target=7)
        assert maps.shape == (1, 1, 224, 224)
        assert torch.isfinite(maps).all()


def test_names_lead_to_the_shipped_explainer_and_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    folder, beside = locate(DEFAULT)
    assert (folder, beside, shipped_target(folder)) == (SHIPPED / DEFAULT, None, DEFAULT)
    own = tmp_path / DEFAULT
    own.mkdir()
    (own / "explainer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert shipped_target(locate(DEFAULT)[0]) is None
    with pytest.raises(AttributionError, match=f"no explainer in nowhere.*{DEFAULT}"):
        locate("nowhere")


@pytest.mark.skipif("AHA_REAL_DATA" not in os.environ, reason="AHA_REAL_DATA is not set")
def test_before_any_training_explain_uses_it(workspace):
    data = Path(os.environ["AHA_REAL_DATA"])
    photo = sorted((data / "imagenette224/val").glob("*/*.JPEG"))[0]
    ctx = Context.create(workspace)
    assert not (ctx.paths.explainer / "explainer.json").is_file()
    Image.open(photo).convert("RGB").save(workspace / "photo.png")
    weights = data / f"{DEFAULT}.safetensors"
    assert run(ctx, Request(["photo.png"], workspace / "x", weights=weights)) == 0
    facts = json.loads((workspace / "x/photo.json").read_text())
    assert facts["target"] == DEFAULT
    assert facts["classes"][0]["class"] == "tench"
    assert facts["classes"][0]["srg"] > 0.1
