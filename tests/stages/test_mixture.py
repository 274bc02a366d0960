"""`aha study mixture`: which image goes where, and what it refuses."""

from collections import Counter

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from aha_core.errors import DataError
from stages.context import Context
from stages.studies.mixture import run

GOLDFISH, TENCH = "n01443537", "n01440764"


@pytest.fixture
def source(tmp_path):
    """Ten images of the sample, two of Imagenette, five small ones, two without a label."""
    names = [f"imagenet1k_sample/images/{GOLDFISH}_{number}.JPEG" for number in range(10)]
    names += [f"imagenette224/train/{TENCH}/{number}.JPEG" for number in range(2)]
    names += [f"tiny_imagenet64/{TENCH}/{number}.JPEG" for number in range(5)]
    names += [f"voc_animals_extra/{number}.jpg" for number in range(2)]
    draw = np.random.default_rng(0)
    for name in names:
        file = tmp_path / "sets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(file)
    return tmp_path / "sets"


@pytest.fixture
def ctx(workspace, change, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    change("target", source="checkpoint", name="vit_tiny_patch16_224", checkpoint=str(tmp_path / "weights.safetensors"))
    change("data", image_size=224)
    return Context.create(workspace)


def test_parts_classes_and_the_predicted_class_of_unlabelled_images(ctx, source, tmp_path):
    run(ctx, source, tmp_path / "mixture")
    files = sorted((tmp_path / "mixture").rglob("*.[jJ]*"))
    assert all(file.resolve().is_file() and file.is_symlink() for file in files)
    assert Counter(file.relative_to(tmp_path / "mixture").parts[0] for file in files) == {
        "train": 7 + 2 + 2 + 2,
        "val": 3,
    }
    held_out = sorted(file.name for file in files if "val" in file.relative_to(tmp_path / "mixture").parts)
    assert held_out == [f"imagenet1k_sample-{GOLDFISH}_{number}.JPEG" for number in (0, 3, 6)]
    unlabelled = [file for file in files if "voc" in str(file.resolve())]
    assert len(unlabelled) == 2
    assert all(file.parent.name.startswith("n") for file in unlabelled)
    run(ctx, source, tmp_path / "mixture")
    assert sorted((tmp_path / "mixture").rglob("*.[jJ]*")) == files


def test_a_missing_set_is_named_and_nothing_is_written(ctx, source, tmp_path):
    for file in (source / "tiny_imagenet64").rglob("*.JPEG"):
        file.unlink()
    with pytest.raises(DataError, match="no images in .*tiny_imagenet64"):
        run(ctx, source, tmp_path / "mixture")
    assert not (tmp_path / "mixture").exists()
