"""Real class folders: imagenette at 224 pixels and Tiny ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from aha_core.config import DataConfig
from aha_core.data.dataset import PreparedImages
from aha_core.data.decode import read_image
from aha_core.data.labels import display_names, label_map
from aha_core.data.prepare import prepare_folder

pytestmark = pytest.mark.skipif("AHA_REAL_DATA" not in os.environ, reason="set AHA_REAL_DATA to the image folder")


def config(root: str, size: int, fraction: float) -> DataConfig:
    folder = {"root": root, "val_fraction": fraction, "max_unreadable": 0, "resize": "squash"}
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
    assert label_map(test.class_names, 1000) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


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
