"""Training of the target: it learns, is reproducible, and restores what it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aha_core.config import DataConfig, TargetTrainConfig
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_folder
from aha_core.target_training import _batches, accuracy, augment, remove_regions, train_classifier
from aha_core.targets import Target, create_model

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, PreparedImages]:
    """Noise with a square whose colour is the class: 32 pixels, three classes, 64 training images each."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for index in range(80):
            values = rng.integers(60, 180, (32, 32, 3), np.uint8)
            top, left = rng.integers(0, 16, 2)
            values[top : top + 16, left : left + 16] = colour
            Image.fromarray(values).save(root / name / f"{index}.png")
    settings = {"root": str(root), "val_fraction": 0.1, "max_unreadable": 0, "resize": "squash"}
    settings |= {"masks": "", "boxes": "", "void": None}
    parameters = {"source": "folder", "image_size": 32, "synthetic": {"train": 1, "val": 1, "test": 1}}
    out: Path = tmp_path_factory.mktemp("data")
    prepare_folder(DataConfig.model_validate(parameters | {"folder": settings}), 0, out)
    return {split: PreparedImages(out, split) for split in ("train", "val", "test")}


def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("vit_convstem_mini", 3, 32)


def config(**changes) -> TargetTrainConfig:
    settings = {"epochs": 5, "batch_size": 16, "lr": 2e-3, "weight_decay": 0.05, "erase": 0.5}
    return TargetTrainConfig.model_validate(settings | changes)


def run(data, classifier, **changes):
    rows = []
    train_classifier(classifier, data["train"], data["val"], config(**changes), 1, "cpu", 1, rows.append)
    return rows


def test_it_learns(data):
    classifier = model()
    rows = run(data, classifier)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert max(row["val_accuracy"] for row in rows) > 0.8
    facts = accuracy(Target("vit_convstem_mini", classifier, 32, list(COLOURS)), data["test"], [0, 1, 2], 10, "cpu")
    assert facts["images"] == 24
    assert facts["top1"] > 0.8
    assert facts["top1"] == pytest.approx(np.mean(list(facts["per_class"].values())))
    assert "top5" not in facts
    assert 0.4 < facts["confidence"] <= 1


def test_a_single_image_is_no_batch():
    order = torch.arange(33)
    assert [len(one) for one in _batches(order, 16)] == [16, 17]
    assert [len(one) for one in _batches(order, 11)] == [11, 11, 11]
    assert [len(one) for one in _batches(order[:1], 16)] == [1]
    assert torch.cat(_batches(order, 16)).equal(order)


def test_same_seed_same_weights_and_nothing_else_changes(data, monkeypatch):
    """Also when the second run reads its images from the disk."""
    threads = torch.get_num_threads()
    first, second = model(), model()
    run(data, first, epochs=1)
    monkeypatch.setattr("aha_core.target_training._MEMORY", 0)
    run(data, second, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.get_num_threads() == threads
    assert not first.training


def test_the_global_generator_is_left_alone(data):
    classifier = model()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    run(data, classifier, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_best_epoch_is_kept(data, monkeypatch):
    """With scores .2, .9, .1 for three epochs, the weights of the second stay."""
    scores, states = iter([0.2, 0.9, 0.1]), []

    def top1(classifier, *_):
        states.append({name: value.clone() for name, value in classifier.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("aha_core.target_training._top1", top1)
    classifier = model()
    run(data, classifier, epochs=3)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, states[1][name])


def test_accuracy_follows_the_label_map(data):
    """A target that always answers class 7 of ten is right for the class that maps to 7, always in its top 5."""

    class Constant(nn.Module):
        num_classes, pretrained_cfg = 10, {"mean": (0.5,) * 3, "std": (0.5,) * 3}

        def forward(self, x):
            return torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 2, 0, 0]).expand(len(x), 10)

    target = Target("constant", Constant(), 32, [str(label) for label in range(10)])
    facts = accuracy(target, data["test"], [7, 3, 9], 7, "cpu")
    assert facts["top1"] == pytest.approx(1 / 3)
    assert facts["per_class"] == {"blue": 1.0, "green": 0.0, "red": 0.0}
    assert facts["top5"] >= 2 / 3
    assert facts["confidence"] == pytest.approx(torch.tensor([0.0] * 8 + [1, 2]).softmax(dim=0).max().item())


def test_removed_regions():
    x = torch.rand(64, 3, 32, 32)
    before = x.clone()
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(remove_regions(x, 0.0, generator), x)
    shares = torch.cat([(remove_regions(x, 1.0, generator) != x).any(dim=1).float().mean(dim=(1, 2)) for _ in range(8)])
    assert torch.equal(x, before)
    assert 0.4 < shares.mean() < 0.6
    assert shares.min() < 0.05
    assert shares.max() > 0.95
    half = torch.stack([(remove_regions(x, 0.5, generator) != x).flatten(1).any(dim=1) for _ in range(8)])
    assert 0.35 < half.float().mean() < 0.55


def test_removed_pixels_are_black_a_colour_or_a_blur():
    """Where an image is removed entirely, a constant fill has one colour and a blur has few frequencies."""
    x = torch.rand(256, 3, 16, 16)
    changed = remove_regions(x, 1.0, torch.Generator().manual_seed(3))
    fills = changed[(changed != x).any(dim=1).flatten(1).all(dim=1)]
    assert len(fills) > 10
    spread = fills.std(dim=(2, 3)).amax(dim=1)
    black = fills.amax(dim=(1, 2, 3)) == 0
    assert black.any()
    assert ((spread == 0) & ~black).any()
    assert spread.max() < x.std(dim=(2, 3)).mean()


def test_augmentation_keeps_range_and_flips_some_images():
    x = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)  # brightness grows to the right
    changed = augment(x, torch.Generator().manual_seed(0))
    assert changed.shape == x.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    rises = changed[..., 20].mean(dim=(1, 2)) > changed[..., 12].mean(dim=(1, 2))
    assert 20 < rises.sum() < 44
