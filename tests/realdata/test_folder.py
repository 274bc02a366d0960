"""Real class folders: imagenette at 224 pixels, Tiny ImageNet, and photographs of PASCAL VOC with masks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch

from aha_core.baselines import BaselineSettings, make_baseline
from aha_core.config import DataConfig, load_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.decode import read_image
from aha_core.data.labels import display_names, imagenet_class_names, label_map
from aha_core.data.prepare import prepare_folder
from aha_core.evaluation import ChunkEvaluator, attempt_maps
from aha_core.scoring import Scorer
from aha_core.targets import Target
from stages.images import load
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif("AHA_REAL_DATA" not in os.environ, reason="set AHA_REAL_DATA to the image folder")


def config(root: str, size: int, fraction: float, **more) -> DataConfig:
    folder = {"root": root, "val_fraction": fraction, "max_unreadable": 0, "resize": "squash"}
    folder |= {"masks": "", "boxes": "", "void": None} | more
    synthetic = {"train": 1, "val": 1, "test": 1}
    return DataConfig.model_validate({"source": "folder", "image_size": size, "synthetic": synthetic, "folder": folder})


@pytest.fixture(scope="module")
def imagenette(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imagenette")
    prepare_folder(config("$AHA_REAL_DATA/imagenette224", 224, 0.15), 42, out, threads=2)
    return out


def test_imagenette_has_the_documented_images(imagenette):
    sizes = {split: len(PreparedImages(imagenette, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 5100, "val": 900, "test": 1000}
    test = PreparedImages(imagenette, "test")
    assert torch.bincount(test.labels).tolist() == [100] * 10
    assert display_names(test.class_names)[:3] == ["tench", "English springer", "cassette player"]
    assert label_map(test.class_names, imagenet_class_names()) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_images_equal_a_plain_decode(imagenette):
    test = PreparedImages(imagenette, "test")
    for index in (0, 500, 999):
        plain = read_image(Path(os.environ["AHA_REAL_DATA"]) / "imagenette224" / test.name(index))
        expected = torch.frombuffer(bytearray(plain.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
        assert torch.equal(test.image(index), expected)


def test_crops_of_real_images(imagenette):
    train = PreparedImages(imagenette, "train", "crop")
    crops = [train.augmented(0, torch.Generator().manual_seed(seed)) for seed in range(3)]
    assert all(crop.shape == (3, 224, 224) for crop in crops)
    assert not torch.equal(crops[0], crops[1])


def test_tiny_imagenet_is_enlarged(tmp_path):
    manifest = prepare_folder(config("$AHA_REAL_DATA/tiny_imagenet64", 224, 0.1), 42, tmp_path / "out", threads=2)
    assert manifest["images"] == {"train": 12800, "val": 1600, "test": 1600}
    assert manifest["enlarged"] == 16000
    assert PreparedImages(tmp_path / "out", "val").image(0).shape == (3, 224, 224)


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """Links to twelve dogs and twelve cats of VOC, and to the folder of all masks for either class."""
    root, voc = tmp_path_factory.mktemp("animals"), Path(os.environ["AHA_REAL_DATA"]) / "voc_animals_mini"
    (root / "masks").mkdir()
    facts = json.loads((voc / "annotations.json").read_text())
    for name in ("cat", "dog"):
        (root / "images" / name).mkdir(parents=True)
        (root / "masks" / name).symlink_to(voc / "masks")
        for one in [one for one in facts if one["class"] == name][:12]:
            (root / "images" / name / one["file"]).symlink_to(voc / "images" / one["file"])
    return root


@pytest.mark.parametrize("rule", ["squash", "crop"])
def test_the_centre_baseline_on_photographs_with_masks(animals, tmp_path, rule):
    places = {"masks": str(animals / "masks"), "void": 255, "resize": rule}
    manifest = prepare_folder(config(str(animals / "images"), 64, 0.45, **places), 0, tmp_path)
    assert manifest["objects"]["images"] == 24
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=12, depth=1, num_heads=1, num_classes=2)
    target, params, rows, void = Target("vit", model, 64, ["cat", "dog"]), load_params(ROOT / "params.yaml"), [], 0
    centre = make_baseline("centre", target, BaselineSettings(0, 1, 1, 1, 1, 8, lambda x: x, None))
    settings = params.evaluate.model_copy(update={"measures": (), "references": ("black",), "points": 2})
    for split in ("train", "val", "test"):
        images = PreparedImages(tmp_path, split)
        batch = load(images, list(range(len(images))), [0, 1], "cpu")
        void += sum(images.void(i) is not None for i in range(len(images)))
        scorer = Scorer(target, "fp32", 8, 1.0)
        chunk = ChunkEvaluator(scorer, batch, "label", batch.labels, settings, params.perturbation, 0)
        rows += chunk.score("centre", attempt_maps(centre.attribute, batch.x, batch.labels)).localisation
    assert len(rows) == 24 and void > 0
    energy, area = (sum(row[name] for row in rows) / 24 for name in ("energy", "area"))
    assert 0.1 < area < 0.6 and energy > area + 0.08
    assert sum(row["pointing"] for row in rows) >= 15
