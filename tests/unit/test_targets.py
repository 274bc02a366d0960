"""Any timm classifier behind one interface."""

import pytest
import torch

from aha_core.errors import TargetError
from aha_core.targets import Target, contrast_rows, create_model, load_weights

FAMILIES = [
    ("vit_convstem_mini", 64),
    ("vit_tiny_patch16_224", 64),
    ("deit_tiny_distilled_patch16_224", 64),
    ("vit_small_patch14_reg4_dinov2", 70),
    ("swin_tiny_patch4_window7_224", 64),
    ("resnet18", 64),
    ("mobilenetv2_100", 64),
    ("convnext_atto", 64),
]


def make(name: str, size: int, classes: int = 7) -> Target:
    torch.manual_seed(0)
    return Target(name, create_model(name, classes, size), size, [f"c{i}" for i in range(classes)])


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_one_forward_gives_logits_levels_and_final_map(name, size):
    target = make(name, size)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = target.features(x, (0.3, 0.6, 1.0, 1.0))
        assert torch.allclose(features.logits, target(x), atol=1e-5)
    assert len(features.levels) == 4
    assert features.final.ndim == 4
    rows = target.class_rows(torch.tensor([0, 6]), features.logits, 0.5)
    assert rows.shape == (2, features.final.shape[1])
    assert torch.allclose(rows.square().mean(dim=1), torch.ones(2), atol=1e-4)


def test_contrast_takes_the_rows_of_likely_competitors_from_a_class_that_is_behind():
    weight = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, -4.0]])
    logits = torch.tensor([[2.0, 1.0, 3.0]]).log()  # of the two others 1/4 and 3/4; p_c is two thirds of the largest
    row = torch.tensor([[3.0, 0.0 - 0.5 * (1 / 3) * (0.25 * 2 - 0.75 * 4)]])  # (3, 1.25 / 3)
    expected = row / ((9 + (1.25 / 3) ** 2) / 2) ** 0.5
    torch.testing.assert_close(contrast_rows(weight, torch.tensor([0]), logits, 0.5), expected)


def test_the_predicted_class_and_all_without_contrast_keep_their_own_rows():
    weight, classes = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([4, 1])
    own = weight[classes] / weight[classes].square().mean(dim=1, keepdim=True).sqrt()
    predicted = torch.nn.functional.one_hot(classes, 5).float()
    torch.testing.assert_close(contrast_rows(weight, classes, predicted, 0.5), own)
    torch.testing.assert_close(contrast_rows(weight, classes, predicted.flip(0), 0.0), own)
    assert not torch.allclose(contrast_rows(weight, classes, predicted.flip(0), 0.5), own)


def test_a_tie_for_the_first_place_is_no_jump():
    weight, classes = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0])
    ahead, behind = contrast_rows(weight, classes, torch.tensor([[1.0, 0.999, 0.0], [1.0, 1.001, 0.0]]), 0.5)
    torch.testing.assert_close(ahead, behind, atol=2e-3, rtol=0)


def test_full_contrast_is_the_direction_in_which_the_log_probability_rises():
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    h = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = 20 * h @ weight.T  # so that all but one have next to no probability
    classes = logits.argsort(dim=1)[:, 2]  # neither first nor last
    logits.log_softmax(dim=1).gather(1, classes[:, None]).sum().backward()
    rows = contrast_rows(weight, classes, logits.detach(), 1.0)
    torch.testing.assert_close(torch.cosine_similarity(rows, h.grad), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("classes", [1, 3])
def test_contrast_stands_certainty_and_a_single_class(classes):
    logits = torch.zeros(1, classes)
    logits[0, -1] = 1e4
    rows = contrast_rows(torch.ones(classes, 2).cumsum(dim=0), torch.tensor([0]), logits, 0.5)
    assert rows.isfinite().all()


def test_normalisation_is_inside():
    target = make("resnet18", 32)
    x = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(target.model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        assert torch.allclose(target(x), target.model((x - mean) / std))


def test_a_single_logit_is_refused():
    with pytest.raises(TargetError, match="single logit, whose softmax is always 1; give it two"):
        Target("resnet18", create_model("resnet18", 1, 32), 32, ["a"])


def test_frozen_also_after_train():
    target = make("resnet18", 32).train()
    assert not target.training
    assert not target.model.training
    assert not any(weight.requires_grad for weight in target.parameters())


def test_save_and_load_give_the_same_logits(tmp_path):
    target = make("vit_convstem_mini", 32)
    target.save(tmp_path, {"accuracy": 1.0})
    loaded = Target.load(tmp_path)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(target(x), loaded(x))
    assert loaded.class_names == target.class_names


def test_load_without_a_target_names_the_command(tmp_path):
    with pytest.raises(TargetError, match="run `aha target`"):
        Target.load(tmp_path)


def test_unknown_name_suggests_near_ones():
    with pytest.raises(TargetError, match=r"'resnet8' is not a timm model; did you mean .*resnet"):
        create_model("resnet8", 10, 64)
    with pytest.raises(TargetError, match=r"target.name = 'resnet18.nosuch' has a tag .*; did you mean resnet18"):
        create_model("resnet18.nosuch", 10, 64)


def test_pretrained_without_a_network_says_what_to_do_instead(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TargetError, match=r"resnet18.*target.source: checkpoint"):
        create_model("resnet18.a1_in1k", 1000, 224, pretrained=True)


def test_checkpoints_that_do_not_fit_or_cannot_be_read(tmp_path):
    target = make("resnet18", 32)
    (tmp_path / "bad.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(TargetError, match="not a readable safetensors file"):
        load_weights(target.model, tmp_path / "bad.safetensors", "resnet18")
    with pytest.raises(TargetError, match="no checkpoint at"):
        load_weights(target.model, tmp_path / "none.safetensors", "resnet18")
    make("vit_convstem_mini", 32).save(tmp_path)
    with pytest.raises(TargetError, match=r"keys missing .*; .*keys unexpected"):
        load_weights(target.model, tmp_path / "model.safetensors", "resnet18")
