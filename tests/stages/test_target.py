"""The stage `target` with a user's own weights, and with a tower and class embeddings."""

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from aha_core.errors import DataError, TargetError
from aha_core.targets import Target
from stages import target
from stages.context import Context


@pytest.fixture
def tower(workspace, change):
    """A CLIP-like tower with a projection to 24 numbers, as a local file."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32, num_classes=24).state_dict(), workspace / "tower.safetensors")
    change(
        "target", source="checkpoint", name="test_vit", checkpoint=str(workspace / "tower.safetensors"),
        zero_shot={"embeddings": str(workspace / "text.safetensors"), "temperature": 0.01},
    )  # fmt: skip


@pytest.mark.usefixtures("tower")
def test_class_embeddings_make_a_target(workspace):
    torch.manual_seed(1)
    save_file({"text": torch.randn(8, 24)}, workspace / "text.safetensors")
    ctx = Context.create(workspace)
    target.run(ctx)
    loaded = Target.load(ctx.paths.target)
    assert loaded.num_classes == 8 and loaded.classifier_weight.shape == (8, 64)
    facts = json.loads((ctx.paths.target / "target.json").read_text())
    assert facts["zero_shot"] == {"temperature": 0.01, "embedding": 24, "projection": 24}
    assert facts["summary"]["row"] == 64 and facts["summary"]["native_size"] == 160


@pytest.mark.usefixtures("tower")
def test_embeddings_without_names_must_be_as_many_as_the_datas_classes(workspace):
    save_file({"text": torch.randn(3, 24)}, workspace / "text.safetensors")
    with pytest.raises(TargetError, match=r"3 embeddings, the data 8 classes; name them in the file's metadata"):
        target.run(Context.create(workspace))


@pytest.mark.parametrize("names", [["c0", "c1", "c10"], ["n01440764", "n02102040", "n02979186"]])
def test_the_file_tells_the_number_of_classes_whatever_the_folders_are_called(workspace, change, names):
    model = timm.create_model("test_vit", img_size=32, num_classes=3)
    save_file(model.state_dict(), workspace / "mine.safetensors")
    change("target", source="checkpoint", name="test_vit", checkpoint=str(workspace / "mine.safetensors"))
    params = Context.create(workspace).params
    found = target.existing(params, names)
    assert found.class_names == names
    assert found.classifier_weight.equal(model.head.weight)
    with pytest.raises(DataError, match=r"the data has 2 classes \(cat, dog, …\), the target 3"):
        target.existing(params, ["cat", "dog"])


def test_weights_of_imagenets_classes_keep_its_names(workspace, change):
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), workspace / "imagenet.safetensors")
    change("target", source="checkpoint", name="test_vit", checkpoint=str(workspace / "imagenet.safetensors"))
    found = target.existing(Context.create(workspace).params, ["n01440764", "n02102040"])
    assert found.num_classes == 1000 and found.class_names[0] == "tench"


def test_an_accuracy_of_chance_asks_for_the_order_of_the_classes(workspace, change, monkeypatch):
    ctx = Context.create(workspace)
    change("target", source="checkpoint", checkpoint=str(workspace / "mine.safetensors"))
    shutil.copy(ctx.paths.target / "model.safetensors", workspace / "mine.safetensors")
    said = []
    monkeypatch.setattr(Context, "say", lambda self, message: said.append(message))
    monkeypatch.setattr(target, "accuracy", lambda *_: {"top1": 0.1})
    target.run(Context.create(workspace))
    assert any("no better than chance: are its logits in the order of the data's classes, " in one for one in said)
    said.clear()
    monkeypatch.setattr(target, "accuracy", lambda *_: {"top1": 0.9})
    target.run(Context.create(workspace))
    assert len(said) == 1
