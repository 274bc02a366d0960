"""What holds for every registered baseline."""

from dataclasses import replace

import pytest
import torch

from aha_core.baselines import BASELINES, make_baseline
from aha_core.errors import AttributionError, ConfigError

TRANSFORMER_ONLY = {"rollout", "chefer", "legrad"}
CLASS_BLIND = {"random", "centre", "sobel", "rollout"}
PAIRS = [
    (name, architecture)
    for name in BASELINES
    for architecture in ("vit", "mobilenet")
    if architecture == "vit" or name not in TRANSFORMER_ONLY
    if (name, architecture) != ("score_cam", "mobilenet")  # 1280 passes per map; test_cams has a small one
]
# Float32 noise: small differences of nearly equal probabilities, sums of gradients that nearly cancel.
TOLERANCE = {"occlusion": 1e-3, "gradient_shap": 2e-4}


def state(model: torch.nn.Module) -> list:
    """Everything that a baseline might leave changed."""
    modules = list(model.modules())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules]
    flags = [(m.training, getattr(m, "fused_attn", None)) for m in modules]
    gradients = [(p.requires_grad, p.grad) for p in model.parameters()]
    return [hooks, flags, gradients]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_contract(name: str, architecture: str, request, images, settings):
    target = request.getfixturevalue(architecture)
    method = make_baseline(name, target, settings)
    before, weights, original = state(target), [p.clone() for p in target.parameters()], images.clone()
    random_state = torch.get_rng_state()

    maps = method.attribute(images)

    assert maps.shape == (3, 1, 64, 64) and maps.dtype == torch.float32 and not maps.requires_grad
    assert maps.isfinite().all()
    assert images.equal(original) and images.grad is None and not images.requires_grad
    assert state(target) == before and torch.get_rng_state().equal(random_state)
    assert all(a.equal(b) for a, b in zip(weights, target.parameters(), strict=True))
    # Deterministic, and each map is its image's own whatever the batch.
    alone = torch.cat([method.attribute(image[None]) for image in images])
    scale = maps.abs().amax().clamp(min=1e-12)
    tolerance = TOLERANCE.get(name, 2e-5)
    torch.testing.assert_close(alone / scale, maps / scale, atol=tolerance, rtol=0)
    wide = make_baseline(name, target, replace(settings, batch_size=64)).attribute(images)
    torch.testing.assert_close(wide / scale, maps / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_classes(name: str, architecture: str, request, images, settings):
    target = request.getfixturevalue(architecture)
    method = make_baseline(name, target, settings)
    predicted = target(images).argmax(dim=1)
    torch.testing.assert_close(method.attribute(images, predicted), method.attribute(images))
    others = method.attribute(images, (predicted + 1) % 5)
    assert others.allclose(method.attribute(images)) == (name in CLASS_BLIND)


@pytest.mark.parametrize("name", BASELINES)
def test_works_in_inference_mode(name: str, vit, images, settings):
    with torch.inference_mode():
        assert make_baseline(name, vit, settings).attribute(images.clone()).isfinite().all()


@pytest.mark.parametrize("name", sorted(TRANSFORMER_ONLY))
def test_reason_when_not_applicable(name: str, mobilenet, settings):
    assert "mobilenetv2_035 is not one" in str(BASELINES[name].applies_to(mobilenet))
    with pytest.raises(AttributionError, match=f"{name} needs a plain vision transformer.*remove it"):
        make_baseline(name, mobilenet, settings)


def test_unknown_name(vit, settings):
    with pytest.raises(ConfigError, match="did you mean chefer"):
        make_baseline("cheffer", vit, settings)


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_shapes_are_named(vit, images, settings):
    method = make_baseline("saliency", vit, settings)
    with pytest.raises(AttributionError, match=r"got \(3, 1, 64, 64\) and no classes"):
        method.attribute(images[:, :1])
    with pytest.raises(AttributionError, match=r"classes of shape \(2,\)"):
        method.attribute(images, torch.tensor([0, 1]))


def test_every_entry_is_described():
    for name, spec in BASELINES.items():
        assert spec.name == name and spec.description and spec.passes
