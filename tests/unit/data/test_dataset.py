"""Prepared images as tensors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import data_config, write_image

from aha_core.batches import training_image
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_folder, prepare_synthetic
from aha_core.data.synthetic import draw
from aha_core.errors import DataError


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    prepare_synthetic(data_config(), 4, out)
    return out


@pytest.fixture
def folder(class_folders, tmp_path):
    prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    return tmp_path / "out"


def test_synthetic_images_labels_and_masks_are_what_was_drawn(synthetic):
    images = PreparedImages(synthetic, "test")
    image, mask, label = draw(4, "test", 7, 16)
    assert len(images) == 10
    np.testing.assert_array_equal(images.image(7).permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(images.mask(7).numpy(), mask)
    assert (images.label(7), images.name(7)) == (label, "test/00007")
    assert images.class_names[:2] == ["disc", "square"]


def test_preparing_twice_gives_the_same_bytes_and_another_seed_does_not(synthetic, tmp_path):
    prepare_synthetic(data_config(), 4, tmp_path / "same")
    prepare_synthetic(data_config(), 5, tmp_path / "other")
    for file in ("manifest.json", "index.parquet", "images.npy", "masks.npy"):
        assert (tmp_path / "same" / file).read_bytes() == (synthetic / file).read_bytes()
    assert (tmp_path / "other/images.npy").read_bytes() != (synthetic / "images.npy").read_bytes()


def test_batches(synthetic):
    images = PreparedImages(synthetic, "train")
    x, labels = images.batch([3, 0])
    assert x.dtype == torch.uint8
    assert x.shape == (2, 3, 16, 16)
    assert labels.tolist() == [images.label(3), images.label(0)]
    assert torch.equal(x[0], images.image(3))


def test_folder_images(folder):
    images = PreparedImages(folder, "train")
    assert images.image(0).shape == (3, 16, 16)
    assert images.mask(0) is None
    assert images.name(0).startswith("cat/")
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_resize_rules(tmp_path):
    """A wide image, left half black and right half white: squashing keeps the halves, cropping the middle."""
    for name in ("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png", "dog/3.png"):
        write_image(tmp_path / "images" / name)
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 40:] = 255
        Image.fromarray(wide).save(tmp_path / "images" / name)
    squashed, cropped = (
        PreparedImages(_prepared(tmp_path, rule), "train").image(0)[0].float() / 255 for rule in ("squash", "crop")
    )
    assert squashed.mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert cropped.mean().item() == pytest.approx(0.0, abs=0.04)


def _prepared(tmp_path, rule):
    prepare_folder(data_config(tmp_path / "images", resize=rule), 1, tmp_path / rule)
    return tmp_path / rule


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_augmentation_is_a_function_of_the_generator(synthetic, augment):
    images = PreparedImages(synthetic, "train", augment)
    state = torch.random.get_rng_state()
    first = [images.augmented(0, torch.Generator().manual_seed(seed)) for seed in range(8)]
    again = [images.augmented(0, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert torch.equal(torch.random.get_rng_state(), state)
    distinct = len({one.numpy().tobytes() for one in first})
    assert distinct == {"none": 1, "flip": 2, "crop": 8}[augment]
    if augment != "crop":
        assert any(torch.equal(one, images.image(0)) for one in first)


def test_mosaics_hold_the_image_in_one_cell(synthetic):
    """Images of one colour each, so that the cells can be told apart."""
    images = PreparedImages(synthetic, "train", "flip")
    images._source = lambda i: torch.full((3, 20, 20), 3 * i, dtype=torch.uint8)
    images.image_size = 20
    image, is_mosaic = training_image(images, 7, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(image, images.image(7)) and not is_mosaic
    places, others = set(), set()
    for seed in range(40):
        mosaic, is_mosaic = training_image(images, 7, 1.0, torch.Generator().manual_seed(seed))
        assert mosaic.shape == (3, 20, 20) and is_mosaic
        assert torch.equal(mosaic, training_image(images, 7, 1.0, torch.Generator().manual_seed(seed))[0])
        cells = mosaic[0, 5::10, 5::10].flatten().tolist()
        places.add(cells.index(21))
        others |= set(cells)
    assert places == {0, 1, 2, 3}
    assert len(others) > 8
    some = [training_image(images, 7, 0.3, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert 40 < sum(is_mosaic for _, is_mosaic in some) < 80
    assert all(is_mosaic == (len(image.unique()) > 1) for image, is_mosaic in some)


def test_mosaics_of_an_odd_side(synthetic):
    images = PreparedImages(synthetic, "train", "crop")
    images.image_size = 21
    assert training_image(images, 0, 1.0, torch.Generator().manual_seed(0))[0].shape == (3, 21, 21)


def test_crops_have_the_promised_area(synthetic):
    """Cropping an image whose red channel is the column number shows the width of the window."""
    images = PreparedImages(synthetic, "train", "crop")
    ramp = torch.arange(0, 256, 2, dtype=torch.uint8).expand(3, 128, 128)
    images._source = lambda i: ramp
    images.image_size = 128
    widths = []
    for seed in range(200):
        row = images.augmented(0, torch.Generator().manual_seed(seed))[0, 64].float()
        widths.append((row.max() - row.min()).item() / 254)
    assert 0.48 < min(widths) < 0.65  # sqrt(.35 * 3/4) = .51
    assert max(widths) > 0.97


def test_workers_get_a_working_copy(synthetic):
    images = PreparedImages(synthetic, "train")
    first = images.image(0)
    data = pickle.dumps(images)
    assert len(data) < 20_000
    assert torch.equal(pickle.loads(data).image(0), first)


def test_images_are_copies(synthetic):
    images = PreparedImages(synthetic, "train")
    before = images.image(0).clone()
    images.image(0).zero_()
    assert torch.equal(images.image(0), before)


def test_missing_preparation(tmp_path):
    with pytest.raises(DataError, match="run `aha prepare`"):
        PreparedImages(tmp_path, "train")


def test_unknown_and_empty_splits(synthetic, tmp_path):
    with pytest.raises(DataError, match="unknown split 'dev'; one of train, val, test"):
        PreparedImages(synthetic, "dev")
    for name in ("train/cat/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png"):
        write_image(tmp_path / "both" / name)
    prepare_folder(data_config(tmp_path / "both", val_fraction=0), 1, tmp_path / "out")
    with pytest.raises(DataError, match=r"split val of .* has no images; raise data.folder.val_fraction"):
        PreparedImages(tmp_path / "out", "val")


def test_vanished_and_changed_files_are_named(folder, class_folders):
    images = PreparedImages(folder, "train")
    file = class_folders / images.name(0)
    write_image(file, seed=12345)
    with pytest.raises(DataError, match=f"{images.name(0)} has changed since preparation; run `aha prepare`"):
        images.image(0)
    file.unlink()
    with pytest.raises(DataError, match=f"cannot read {images.name(0)} below"):
        images.image(0)


def test_missing_arrays_are_named(tmp_path):
    prepare_synthetic(data_config(), 4, tmp_path / "out")
    (tmp_path / "out/images.npy").unlink()
    with pytest.raises(DataError, match=r"images\.npy is missing or damaged"):
        PreparedImages(tmp_path / "out", "train").image(0)
