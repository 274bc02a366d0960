"""Tokens, vectors and rows against the model's own arithmetic; models that cannot be read."""

import pytest
import torch

from aha_core.classifiers import reading
from aha_core.errors import TargetError
from aha_core.targets import Target, create_model, load_weights
from tests.unit.classifiers.families import make_family


def images(target: Target, side: int | None = None) -> torch.Tensor:
    side = side or target.image_size
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("case", "classify", "prefix"),
    [
        ("vit", 1, 1), ("vit_average_pooled", 0, 0), ("deit_distilled", 2, 2), ("dinov2_registers", 1, 5),
        ("dinov3", 1, 5), ("clip", 1, 1), ("siglip", 0, 0), ("swin", 0, 0), ("resnet", 0, 0),
    ],
)  # fmt: skip
def test_tokens_before_the_patches(case, classify, prefix):
    target = make_family(case)
    assert (target.num_class_tokens, target.num_prefix_tokens) == (classify, prefix)


def test_oblong_patches_have_an_oblong_grid():
    target = make_family("vit_oblong_patches")
    with torch.no_grad():
        assert target.features(images(target), (1.0,)).final.shape == (2, 48, 4, 8)


@pytest.mark.parametrize("case", ["resnet", "efficientnet", "mobilenetv2"])
def test_mean_logit_of_the_positions_is_the_logit_where_pooling_and_head_are_linear(case):
    target = make_family(case)
    x = images(target)
    with torch.no_grad():
        features = target.features(x, (1.0,))
    lens = torch.einsum("bdhw,yd->byhw", features.final, target.classifier_weight)
    expected = lens.mean(dim=(2, 3)) + target.model.get_classifier().bias
    assert torch.allclose(features.logits, expected, atol=1e-4)


@pytest.mark.parametrize("case", ["convnext", "mobilenetv3", "swin"])
def test_an_image_of_one_position_has_that_positions_vector(case):
    """Norms and convolutions between the last feature and the classifier are inside the vectors."""
    target = make_family(case)
    model = target.model
    with torch.no_grad():
        _, last, final = reading.read_levels(model, target.normalise(images(target)), (1.0,), case)
        one = final[:, :1, :1] if getattr(model, "output_fmt", "") == "NHWC" else final[:, :, :1, :1]
        vector = reading.position_vectors(model, final, last)[:, :, 0, 0]
        logits = vector @ target.classifier_weight.T + model.get_classifier().bias
        assert torch.allclose(logits, model.forward_head(one), atol=1e-4)


def test_average_pooled_vits_normalise_after_pooling():
    target = make_family("vit_average_pooled")
    with torch.no_grad():
        _, last, final = reading.read_levels(target.model, target.normalise(images(target)), (1.0,), "vit")
        expected = target.model.fc_norm(final).transpose(1, 2).unflatten(2, (4, 4))
        assert torch.allclose(reading.position_vectors(target.model, final, last), expected, atol=1e-5)
    assert not isinstance(target.model.fc_norm, torch.nn.Identity)


def test_rows_of_two_heads_are_averaged_as_their_logits_are():
    target = make_family("deit_distilled")
    with torch.no_grad():
        both = (target.model.head.weight + target.model.head_dist.weight) / 2
    assert torch.equal(target.classifier_weight, both)


def named(name: str, size: int = 32) -> Target:
    return Target(name, create_model(name, 3, size), size, ["a", "b", "c"])


def test_models_without_one_grid_say_why_and_what_to_do():
    target = named("coat_tiny")
    with pytest.raises(TargetError, match=r"coat_tiny has several token grids .* use explainer.kind: dpt"):
        target.probe((1.0,))
    assert target.probe(()).logits.shape == (1, 3)  # enough for the explainer that needs only logits


def test_rows_of_a_norm_and_a_linear_layer_are_those_of_their_product():
    target = named("levit_128s")
    generator = torch.Generator().manual_seed(0)
    expected = []
    for head in target.model.get_classifier():
        for values in (head.bn.weight, head.bn.bias, head.bn.running_mean, head.bn.running_var, head.linear.weight):
            values.data.copy_(torch.rand(values.shape, generator=generator) + 0.5)
        scale = head.bn.weight / (head.bn.running_var + head.bn.eps).sqrt()
        expected.append(head.linear.weight * scale)
    assert torch.allclose(target.classifier_weight, torch.stack(expected).mean(dim=0), atol=1e-4)
    assert target.probe((1.0,)).final.shape[1] == target.classifier_weight.shape[1]


def test_classifiers_that_are_not_linear_say_so():
    target = named("resnet18")
    target.model.fc = torch.nn.Sequential(torch.nn.Linear(512, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with pytest.raises(TargetError, match=r"classifier of resnet18 is Sequential, which is not linear; use exp"):
        target.class_rows(torch.tensor([0]), torch.zeros(1, target.num_classes), 0.0)


def test_what_fails_inside_timm_is_named_with_its_reason():
    target = named("resnet18")
    target.model.layer3 = torch.nn.Identity()
    with pytest.raises(TargetError, match=r"cannot read the features of resnet18 at 32 px \(RuntimeError: .*channels"):
        target.probe((1.0,))


def test_towers_without_a_classifier_and_wrong_numbers_of_names_are_refused():
    with pytest.raises(TargetError, match=r"resnet18 has no classifier.*target.zero_shot.embeddings"):
        Target("resnet18", create_model("resnet18", 0, 32), 32, [])
    with pytest.raises(TargetError, match="resnet18 has 3 classes, 2 names"):
        Target("resnet18", create_model("resnet18", 3, 32), 32, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_small_patch14_reg4_dinov2.lvd142m", "no classifier: they are a tower"),
        ("vit_tiny_patch16_224.augreg_in21k", "a classifier of 21843 classes, not of 1000"),
    ],
)
def test_weights_with_other_classes_do_not_silently_get_a_random_classifier(name, what):
    with pytest.raises(TargetError, match=rf"target.name = '{name}' have {what}.*zero_shot.embeddings"):
        create_model(name, 1000, 224, pretrained=True)


def test_sizes_that_leave_pixels_unseen_are_refused():
    with pytest.raises(TargetError, match=r"image_size = 40 .* 16 px patches .* last 8 pixels of .* use 32 or 48"):
        create_model("vit_tiny_patch16_224", 3, 40)
    with pytest.raises(TargetError, match=r"last 12 pixels of .* use 16 or 32"):
        create_model("vit_tiny_patch16_224", 3, 12)


def test_weights_of_another_input_size_name_the_parameter(tmp_path):
    small, large = (create_model("test_vit", 3, size) for size in (32, 64))
    Target("test_vit", small, 32, ["a", "b", "c"]).save(tmp_path)
    with pytest.raises(TargetError, match=r"pos_embed.*set the image_size"):
        load_weights(large, tmp_path / "model.safetensors", "test_vit")
