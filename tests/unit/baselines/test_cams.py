"""Class activation maps against torchcam, on a transformer and on a convolutional network."""

import pytest
import torch
import torchcam.methods as theirs
from torch import nn

from aha_core.baselines import make_baseline
from aha_core.baselines.feature_maps import feature_gradients, feature_map

CLASSES = [4, 0, 2]


@pytest.fixture(scope="session")
def resnet(make_target):
    return make_target("resnet10t")


@pytest.fixture(params=["vit", "resnet"])
def case(request, vit, resnet):
    """A target, the layer that torchcam hooks, and its reshape."""
    if request.param == "resnet":
        return resnet, resnet.model.layer4[-1], None
    return vit, vit.model.blocks[-1].norm1, lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def enlarged(cam):
    return nn.functional.interpolate(cam, size=(64, 64), mode="bilinear", align_corners=False)


def torchcam_map(peer, case, images):
    target, layer, reshape = case
    with peer(target, layer, reshape_transform=reshape) as extractor:
        scores = target(images.clone().requires_grad_())
        return enlarged(extractor(CLASSES, scores, normalized=False)[0][:, None])


def test_layer_cam_agrees_with_torchcam(case, images, settings):
    expected = torchcam_map(theirs.LayerCAM, case, images)
    classes = torch.tensor(CLASSES)
    ours = make_baseline("layer_cam", case[0], settings).attribute(images, classes)
    assert expected.max() > 0
    torch.testing.assert_close(ours / expected.max(), expected / expected.max(), atol=1e-6, rtol=0)
    plain = make_baseline("grad_cam", case[0], settings).attribute(images, classes)
    assert ((plain - expected) / expected.max()).abs().max() > 0.05  # negative control


def test_grad_cam_pp_by_its_equation(case, images, settings):
    """Equation 19 of the paper in loops over channels and float64; torchcam leaves the denominator out."""
    classes = torch.tensor(CLASSES)
    features, gradients = (one.double() for one in feature_gradients(case[0], images, classes))
    expected, undivided = (torch.zeros(3, 1, *features.shape[2:], dtype=torch.float64) for _ in range(2))
    for b in range(3):
        for a, g in zip(features[b], gradients[b], strict=True):
            alpha = g**2 / (2 * g**2 + a.sum() * g**3)
            weight = (alpha * g.clamp(min=0)).nan_to_num(0).sum()
            expected[b, 0] += weight * a
            undivided[b, 0] += (g**2 * g.clamp(min=0)).sum() * a
    expected, undivided = enlarged(expected.clamp(min=0)), enlarged(undivided.clamp(min=0))
    ours = make_baseline("grad_cam_pp", case[0], settings).attribute(images, classes).double()
    torch.testing.assert_close(ours / expected.max(), expected / expected.max(), atol=1e-5, rtol=0)
    peer = torchcam_map(theirs.GradCAMpp, case, images).double()
    torch.testing.assert_close(peer / undivided.max(), undivided / undivided.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["vit"], indirect=True)  # 512 passes per image in the other
def test_score_cam_agrees_with_torchcam(case, images, settings):
    expected = torchcam_map(theirs.ScoreCAM, case, images)
    ours = make_baseline("score_cam", case[0], settings).attribute(images, torch.tensor(CLASSES))
    torch.testing.assert_close(ours / expected.max(), expected / expected.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["grad_cam_pp", "layer_cam", "score_cam"])
def test_channels_last_models(name, tiny_swin, images, settings):
    maps = make_baseline(name, tiny_swin, settings).attribute(images, torch.tensor(CLASSES))
    assert maps.isfinite().all() and (maps.flatten(1).std(dim=1) > 0).all()


def test_feature_map_is_the_one_that_gradients_are_taken_of(vit, resnet, tiny_swin, images):
    for target, shape in ((vit, (3, 24, 4, 4)), (resnet, (3, 512, 2, 2)), (tiny_swin, (3, 24, 8, 8))):
        features, gradient = feature_gradients(target, images, torch.tensor(CLASSES))
        assert features.shape == gradient.shape == shape
        torch.testing.assert_close(feature_map(target, images), features)
        assert not any(module._forward_hooks for module in target.modules())
