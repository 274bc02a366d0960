"""What holds for every registered baseline."""

import copy
from dataclasses import replace

import pytest
import torch

from aha_core.baselines import BASELINES, make_baseline
from aha_core.errors import AttributionError, ConfigError

UNTRAINED = [name for name in BASELINES if name != "fastshap"]  # its network first: test_fastshap
TRANSFORMER_ONLY = {"rollout", "chefer", "legrad"}
FLOORS = {"random", "centre", "sobel"}
CLASS_BLIND = FLOORS | {"rollout"}
GRADIENTS = {
    "saliency", "smoothgrad", "input_x_gradient", "gradient_shap", "integrated_gradients", "grad_cam", "grad_cam_pp",
    "layer_cam", "chefer", "legrad", "extremal",
}  # fmt: skip
PAIRS = [
    (name, architecture)
    for name in UNTRAINED
    for architecture in ("vit", "mobilenet")
    if architecture == "vit" or name not in TRANSFORMER_ONLY
    if (name, architecture) != ("score_cam", "mobilenet")  # 1280 passes per map; test_cams has a small one
]
# Float32 noise: small differences of nearly equal probabilities, sums of gradients that nearly cancel (most with AVX2).
TOLERANCE = {"occlusion": 1e-3, "gradient_shap": 2e-4, "smoothgrad": 5e-4}


def state(model: torch.nn.Module) -> list:
    """Everything that a baseline might leave changed."""
    modules = list(model.modules())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [[len(getattr(m, kind)) for kind in kinds] for m in modules]
    flags = [(m.training, getattr(m, "fused_attn", None)) for m in modules]
    gradients = [(p.requires_grad, p.grad) for p in model.parameters()]
    return [hooks, flags, gradients]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_contract(name: str, architecture: str, request, images, settings):
    check_contract(name, request.getfixturevalue(architecture), images, settings)


def check_contract(name: str, target, images, settings) -> None:
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


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("name", "architecture", "where"),
    [
        (name, architecture, where)
        for name, architecture in PAIRS
        for where in ("block", "classifier", "backward")
        if name in GRADIENTS or (where != "backward" and name not in FLOORS)
    ],
)
def test_everything_is_restored_after_an_exception(name: str, architecture: str, where: str, request, images, settings):
    """In the middle of the forward pass, at its end, in the backward pass: there, hooks and flags are set."""
    target = copy.deepcopy(request.getfixturevalue(architecture))
    method = make_baseline(name, target, settings)
    before, random_state = state(target), torch.get_rng_state()
    module = target.model.blocks[1] if where == "block" else target.model.get_classifier()
    intact = module.forward

    def broken(x):
        if where == "backward":
            return FailsBackward.apply(intact(x))
        raise RuntimeError("on purpose")

    classes = torch.tensor([0, 1, 2])
    module.forward = broken
    with pytest.raises(RuntimeError, match="on purpose"):
        method.attribute(images, classes)
    module.forward = intact
    assert state(target) == before and torch.get_rng_state().equal(random_state)
    assert torch.is_grad_enabled() and images.grad is None and not images.requires_grad
    expected = make_baseline(name, request.getfixturevalue(architecture), settings).attribute(images, classes)
    assert method.attribute(images, classes).equal(expected)


def test_the_state_that_is_compared_holds_what_attention_methods_change(vit):
    """The test above can fail: each of these is seen."""
    target, module = copy.deepcopy(vit), lambda: target.model.blocks[0].attn
    before = state(target)
    assert module().fused_attn, "this timm would not use fused attention; there is nothing to restore"
    changes = [
        lambda: setattr(module(), "fused_attn", False),
        lambda: module().attn_drop.register_forward_pre_hook(lambda *_: None),
        lambda: module().register_full_backward_hook(lambda *_: None),
        lambda: target.model.train(),
        lambda: next(target.parameters()).requires_grad_(True),
    ]
    for change in changes:
        target = copy.deepcopy(vit)
        assert state(target) == before
        change()
        assert state(target) != before


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_classes(name: str, architecture: str, request, images, settings):
    target = request.getfixturevalue(architecture)
    method = make_baseline(name, target, settings)
    predicted = target(images).argmax(dim=1)
    torch.testing.assert_close(method.attribute(images, predicted), method.attribute(images))
    others = method.attribute(images, (predicted + 1) % 5)
    assert others.allclose(method.attribute(images)) == (name in CLASS_BLIND)


@pytest.mark.parametrize("name", UNTRAINED)
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
