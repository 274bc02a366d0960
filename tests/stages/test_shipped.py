"""The explainer that comes with the library: it fits its target, and is what `aha explain` uses before any training."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from aha_core.attribution import Explainer
from aha_core.errors import AttributionError
from aha_core.refinement import DEFAULT_REFINEMENT
from aha_core.sources import DEFAULT, SHIPPED, locate, shipped_target
from aha_core.targets import Target, create_model
from stages.cli import app
from stages.context import Context
from stages.own import parameters
from tests.conftest import ROOT

MEGABYTE = 1e6
CONVOLUTIONAL = "mobilenetv2_100.ra_in1k"


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


def test_an_explainer_of_the_library_comes_with_its_refinement(tmp_path, workspace):
    for name in (DEFAULT, CONVOLUTIONAL):
        target = Target(name, create_model(name, 1000, 224), 224, [str(one) for one in range(1000)])
        refinement = Explainer.load(name, target).refinement
        assert refinement != DEFAULT_REFINEMENT
        assert parameters(tmp_path, None, name) == SHIPPED / name / "params.yaml"
        assert Context.create(tmp_path, parameters(tmp_path, None, name)).params.refine == refinement
        assert parameters(workspace, None, name) == SHIPPED / name / "params.yaml", "the pipeline's are for its own"
        assert Explainer.for_model(target.model, name).refinement == refinement


def test_the_librarys_explainer_has_its_own_parameters_in_any_folder(tmp_path, workspace):
    shipped = parameters(tmp_path, None)
    assert Context.create(tmp_path, shipped).params.data.image_size == 224
    assert shipped.read_text() == (ROOT / "configs/vit-tiny-imagenet.yaml").read_text()
    assert parameters(workspace, None) == shipped, "before any training the library's explains, with its refinement"
    own = workspace / "outputs/explainer"
    own.mkdir(parents=True)
    (own / "explainer.json").write_text("{}")
    assert parameters(workspace, None) is None, "a pipeline's explainer has the folder's"
    assert parameters(workspace, None, DEFAULT) == shipped
    assert parameters(tmp_path, workspace / "params.yaml") == workspace / "params.yaml"


@pytest.mark.skipif("AHA_REAL_DATA" not in os.environ, reason="AHA_REAL_DATA is not set")
@pytest.mark.parametrize(
    ("options", "target", "weights"),
    [
        ([], DEFAULT, f"{DEFAULT}.safetensors"),
        (["--explainer", CONVOLUTIONAL, "--hybrid"], CONVOLUTIONAL, "mobilenetv2_100.timm.safetensors"),
    ],
)
def test_before_any_training_explain_uses_it_in_any_folder(options, target, weights, tmp_path, monkeypatch):
    data = Path(os.environ["AHA_REAL_DATA"])
    photo = sorted((data / "imagenette224/val").glob("*/*.JPEG"))[0]
    Image.open(photo).convert("RGB").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)  # an empty folder
    result = CliRunner().invoke(app, ["explain", "photo.png", *options, "--target-weights", str(data / weights)])
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("maps/photo.json").read_text())
    assert facts["target"] == target
    assert facts["classes"][0]["class"] == "tench"
    assert facts["classes"][0]["srg"] > 0.1
