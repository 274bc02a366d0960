"""Exact values and cross-checks of the floors, gradients, Grad-CAM and RISE."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aha_core.baselines import make_baseline
from aha_core.baselines.base import image_generator
from aha_core.baselines.gradients import SAMPLES, SHAP_NOISE
from aha_core.baselines.rise import random_masks
from aha_core.metrics import removal_order
from aha_core.targets import Target


def test_random_depends_on_content_and_seed(vit, images, settings):
    method = make_baseline("random", vit, settings)
    maps = method.attribute(images)
    assert not maps[0].equal(maps[1])
    assert method.attribute(images.flip(0)).equal(maps.flip(0))
    assert not make_baseline("random", vit, replace(settings, seed=8)).attribute(images).equal(maps)


def test_centre_ranks_by_distance(vit, images, settings):
    maps = make_baseline("centre", vit, settings).attribute(images)
    order = removal_order(maps, [0, 1, 2])
    assert set(order[0, :4].tolist()) == {31 * 64 + 31, 31 * 64 + 32, 32 * 64 + 31, 32 * 64 + 32}
    assert maps[0, 0].equal(maps[0, 0].T) and maps[0].equal(maps[0].flip(1, 2))
    # The outermost pixel centre of the middle row lies at (63 / 64, 1 / 64) of half the side.
    expected = torch.exp(-torch.tensor(((63 / 64) ** 2 + (1 / 64) ** 2) / 0.5))
    torch.testing.assert_close(maps[0, 0, 31, 63], expected)


def test_sobel_on_a_step(vit, settings):
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = 0.5
    maps = make_baseline("sobel", vit, settings).attribute(image)[0, 0]
    # Kernel column sums 1 + 2 + 1 times the step of the luminance, on both sides of the edge.
    torch.testing.assert_close(maps[:, 31:33], torch.full((64, 2), 2.0))
    assert maps[:, :31].abs().max() == 0 and maps[:, 33:].abs().max() < 1e-6


def test_saliency_is_the_largest_channel_gradient(mobilenet, images, settings):
    classes = torch.tensor([0, 3, 1])
    x = images.clone().requires_grad_()
    mobilenet(x).gather(1, classes[:, None]).sum().backward()
    maps = make_baseline("saliency", mobilenet, settings).attribute(images, classes)
    torch.testing.assert_close(maps, x.grad.abs().amax(dim=1, keepdim=True))


class Linear(nn.Module):
    """Two logits with a known gradient."""

    num_classes, pretrained_cfg = 2, {"mean": (0.0,) * 3, "std": (1.0,) * 3}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 2 * 3 * 16).view(2, 48))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_gradients_of_a_linear_model(settings):
    """SmoothGrad is the weight; the path methods from black are weight * input, all exactly."""
    target = Target("linear", Linear(), 4, ["a", "b"])
    images = torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([1, 0])
    weight = target.model.weight.detach().view(2, 3, 4, 4).flip(0)
    smooth = make_baseline("smoothgrad", target, settings).attribute(images, classes)
    torch.testing.assert_close(smooth, weight.abs().amax(dim=1, keepdim=True))
    integrated = make_baseline("integrated_gradients", target, settings).attribute(images, classes)
    torch.testing.assert_close(integrated, (weight * images).abs().sum(dim=1, keepdim=True))
    product = make_baseline("input_x_gradient", target, settings).attribute(images, classes)
    torch.testing.assert_close(product, (weight * images).abs().sum(dim=1, keepdim=True))


def test_integrated_gradients_use_the_reference(vit, images, settings):
    same = replace(settings, reference=lambda x: x.clone())
    assert make_baseline("integrated_gradients", vit, same).attribute(images).abs().max() == 0


def test_gradient_shap_agrees_with_captum_on_the_same_draws(vit, images, settings, monkeypatch):
    from captum.attr import GradientShap

    image, reference = images[:1], torch.full_like(images[:1], 0.3)
    ours = make_baseline("gradient_shap", vit, replace(settings, reference=lambda x: reference)).attribute(
        image, torch.tensor([2])
    )
    generator = image_generator(image[0], settings.seed)
    noise = torch.randn((SAMPLES, *image.shape[1:]), generator=generator)
    places = torch.rand((SAMPLES, 1, 1, 1), generator=generator)
    deviation = SHAP_NOISE * (image.max() - image.min()).item()
    drawn = []
    monkeypatch.setattr(torch, "normal", lambda mean, std: drawn.append("noise") or mean + std * noise)
    monkeypatch.setattr("numpy.random.uniform", lambda *_: drawn.append("places") or places.flatten().numpy())
    theirs = GradientShap(vit).attribute(image, reference, n_samples=SAMPLES, stdevs=deviation, target=2)
    assert drawn == ["noise", "places"]
    expected = theirs.abs().sum(dim=1, keepdim=True)
    torch.testing.assert_close(ours / expected.max(), expected.float() / expected.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_grad_cam_agrees_with_torchcam(architecture: str, vit, make_target, images, settings):
    from torchcam.methods import GradCAM

    if architecture == "vit":
        target, layer = vit, vit.model.blocks[-1].norm1

        def reshape(tokens):
            return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    else:
        target, reshape = make_target("resnet10t"), None
        layer = target.model.layer4[-1]
    classes = [4, 0, 2]
    with GradCAM(target, layer, reshape_transform=reshape) as extractor:
        scores = target(images.clone().requires_grad_())
        cam = extractor(classes, scores, normalized=False)[0]
    expected = nn.functional.interpolate(cam[:, None], size=(64, 64), mode="bilinear", align_corners=False)
    ours = make_baseline("grad_cam", target, settings).attribute(images, torch.tensor(classes))
    assert expected.max() > 0
    torch.testing.assert_close(ours / expected.max(), expected / expected.max(), atol=1e-5, rtol=0)


def test_grad_cam_reads_channels_last_models(tiny_swin, images, settings):
    target = tiny_swin
    features = target.model.forward_features(target.normalise(images)).detach().requires_grad_()
    assert features.shape == (3, 8, 8, 24)
    (gradient,) = torch.autograd.grad(target.model.forward_head(features)[:, 2].sum(), features)
    cam = torch.einsum("bk,bhwk->bhw", gradient.mean(dim=(1, 2)), features).relu()
    expected = nn.functional.interpolate(cam[:, None].detach(), size=(64, 64), mode="bilinear", align_corners=False)
    ours = make_baseline("grad_cam", target, settings).attribute(images, torch.full((3,), 2))
    torch.testing.assert_close(ours, expected)


class TestRise:
    def test_masks_are_the_same_however_they_are_cut(self):
        whole = random_masks(6, torch.Size((20, 30)), torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(3)
        parts = [random_masks(count, torch.Size((20, 30)), generator) for count in (4, 2)]
        assert torch.cat(parts).equal(whole)
        assert whole.shape == (6, 1, 20, 30) and whole.min() >= 0 and whole.max() <= 1
        assert not whole[0].equal(whole[1])

    def test_masks_keep_half_of_the_image(self):
        masks = random_masks(400, torch.Size((28, 28)), torch.Generator().manual_seed(0))
        assert masks.mean().item() == pytest.approx(0.5, abs=0.01)
        # Every place is kept equally often (standard error of a cell's mean: at most .5 / sqrt(400) = .025).
        assert (masks.mean(dim=0) - 0.5).abs().max() < 0.1

    def test_formula(self, mobilenet, images, settings):
        maps = make_baseline("rise", mobilenet, settings).attribute(images[:1], torch.tensor([3]))
        masks = random_masks(10, torch.Size((64, 64)), torch.Generator().manual_seed(7))
        weights = mobilenet.probabilities(images[:1] * masks)[:, 3]
        torch.testing.assert_close(maps[0], torch.einsum("n,nchw->chw", weights, masks) / 5)

    def test_its_sums_are_exact_under_autocast(self, mobilenet, images, settings, monkeypatch):
        method = make_baseline("rise", mobilenet, settings)
        monkeypatch.setattr(mobilenet, "probabilities", lambda x: x.float().flatten(1))
        exact = method.attribute(images, torch.tensor([3, 1, 0]))
        with torch.autocast("cpu", torch.bfloat16):
            assert method.attribute(images, torch.tensor([3, 1, 0])).equal(exact)

    def test_maps_of_the_first_masks_are_those_of_fewer_masks(self, mobilenet, images, settings):
        classes = torch.tensor([3, 1, 0])
        maps = make_baseline("rise", mobilenet, settings).growing(images, classes, (3, 5, 10))
        for count, own in zip((3, 5, 10), maps, strict=True):
            alone = make_baseline("rise", mobilenet, replace(settings, rise_masks=count))
            torch.testing.assert_close(own, alone.attribute(images, classes))
        assert (maps[0] - maps[1]).abs().max() > 1e-3
