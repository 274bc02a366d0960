"""The zero-shot head: cosine logits, its rows, its files."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from aha_core.classifiers.zero_shot import CosineHead, attach_zero_shot, create_zero_shot, read_embeddings
from aha_core.errors import TargetError
from aha_core.targets import Target, create_model
from tests.unit.classifiers.families import make_family

NAME = "test_vit"  # 64 channels


def test_logits_and_rows_of_a_hand_made_head():
    projection = nn.Linear(2, 2, bias=False)
    projection.weight = nn.Parameter(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), requires_grad=False)
    head = CosineHead(projection, torch.tensor([[3.0, 0.0], [3.0, 4.0]]), temperature=0.5)
    # h = (4, 1.5): e = P h = (3, 4), of length 5; cosines with (1, 0) and (0.6, 0.8) are 0.6 and 1
    assert torch.allclose(head(torch.tensor([[4.0, 1.5]])), torch.tensor([[1.2, 2.0]]))
    # P^T t: (0, 2) and (0.8, 1.2)
    assert torch.allclose(head.weight, torch.tensor([[0.0, 2.0], [0.8, 1.2]]))


def test_rows_order_the_positions_as_cosines_of_equal_length_do():
    target = make_family("clip_zero_shot")
    h = torch.randn(5, 48)
    projected = target.model.get_classifier().projection(h) - target.model.get_classifier().projection.bias
    cosines = projected @ target.model.get_classifier().embeddings.T
    assert torch.allclose(h @ target.classifier_weight.T, cosines, atol=1e-5)


def test_saved_and_loaded_zero_shot_target_gives_the_same_logits(tmp_path):
    model = create_model(NAME, 24, 32)
    attach_zero_shot(model, NAME, torch.randn(4, 24), 0.02)
    target = Target(NAME, model, 32, list("abcd"))
    target.save(tmp_path)
    loaded = Target.load(tmp_path)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), target(x))
    assert json.loads((tmp_path / "target.json").read_text())["zero_shot"]["projection"] == 24


@pytest.mark.parametrize("projection", [24, 0])
def test_towers_with_and_without_projection_come_from_a_file(tmp_path, projection):
    tower = timm.create_model(NAME, img_size=32, num_classes=projection)
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    embeddings = torch.randn(3, projection or 64)
    model = create_zero_shot(NAME, 32, embeddings, 0.01, tmp_path / "tower.safetensors").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = torch.cosine_similarity(tower.eval()(x)[:, None], embeddings[None], dim=2) / 0.01
        assert torch.allclose(model(x), expected, atol=1e-3)
    with pytest.raises(TargetError, match=rf"embeddings have 7 numbers, the vectors of {NAME} have {projection or 64}"):
        create_zero_shot(NAME, 32, torch.randn(3, 7), 0.01, tmp_path / "tower.safetensors")


def test_files_of_embeddings(tmp_path):
    file = tmp_path / "t.safetensors"
    save_file({"text": torch.eye(3)}, file, {"class_names": '["x", "y", "z"]'})
    matrix, names = read_embeddings(file)
    assert torch.equal(matrix, torch.eye(3)) and names == ["x", "y", "z"]
    save_file({"text": torch.eye(3)}, file)
    assert read_embeddings(file)[1] is None
    save_file({"text": torch.eye(3)}, file, {"class_names": '["x"]'})
    with pytest.raises(TargetError, match="3 embeddings and 1 class_names"):
        read_embeddings(file)
    save_file({"a": torch.eye(3), "b": torch.eye(3)}, file)
    with pytest.raises(TargetError, match="must hold one matrix"):
        read_embeddings(file)


def test_models_with_two_classifiers_are_refused():
    with pytest.raises(TargetError, match="no single classifier"):
        name = "deit_tiny_distilled_patch16_224"
        attach_zero_shot(create_model(name, 3, 32), name, torch.eye(3), 0.01)
