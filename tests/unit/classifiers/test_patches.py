"""The patch embedding as a matrix product: the convolution's values, gradients and names."""

import pytest
import timm
import torch
from torch import nn

from aha_core.classifiers.build import create_model
from aha_core.classifiers.patches import PatchProjection, project_patches


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(24, 24), (16, 32), (27, 30)])  # the last leaves pixels out
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_the_convolutions(layout, size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 8, 8, bias=bias)
    own = PatchProjection.of(conv)
    x = torch.randn(2, 3, *size).to(memory_format=layout).requires_grad_()
    upstream = torch.randn(conv(x).shape)
    results = []
    for layer in (conv, own):
        out = layer(x)
        results.append((out, *torch.autograd.grad((out * upstream).sum(), (x, layer.weight))))
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape and found.allclose(expected, atol=1e-5)
    assert own.weight is conv.weight and own.bias is conv.bias


def test_models_are_built_with_it_and_keep_their_names():
    settings = {"img_size": 32, "num_classes": 3}
    plain = timm.create_model("vit_tiny_patch16_224", **settings).eval()
    own = create_model("vit_tiny_patch16_224", 3, 32).eval()
    assert type(own.patch_embed.proj) is PatchProjection
    assert own.state_dict().keys() == plain.state_dict().keys()
    own.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert own(x).allclose(plain(x), atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(3, 4, 7, 4, padding=2), nn.Conv2d(3, 4, 8, 4), nn.Conv2d(4, 4, 2, 2, groups=2), nn.Conv2d(3, 4, 1)],
    ids=["padded", "overlapping", "groups", "pixels"],
)
def test_other_convolutions_stay(conv):
    model = nn.Module()
    model.patch_embed = nn.Module()
    model.patch_embed.proj = conv
    project_patches(model)
    assert model.patch_embed.proj is conv
    project_patches(nn.Linear(1, 1))  # a model without patches


def test_a_hooked_convolution_stays():
    model = create_model("vit_tiny_patch16_224", 3, 32)
    model.patch_embed.proj = conv = nn.Conv2d(3, 192, 16, 16)
    conv.register_forward_hook(lambda *_: None)
    project_patches(model)
    assert model.patch_embed.proj is conv
