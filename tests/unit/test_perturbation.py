import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from aha_core.config import PerturbationConfig
from aha_core.perturbation import gaussian_blur, reference_images, remove, upsample_masks

CONFIG = PerturbationConfig(mean=(0.1, 0.2, 0.3), blur_kernel=9, blur_sigma=4.0)


def test_blur_equals_torchvision():
    x = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(0))
    expected = torchvision.gaussian_blur(x, [7, 7], [2.5, 2.5])
    assert torch.allclose(gaussian_blur(x, 7, 2.5), expected, atol=1e-6)


def test_references():
    x = torch.rand(2, 3, 16, 16)
    assert reference_images(x, "black", CONFIG).eq(0).all()
    assert torch.allclose(reference_images(x, "mean", CONFIG)[1, :, 3, 3], torch.tensor([0.1, 0.2, 0.3]))
    blurred = reference_images(x, "blur", CONFIG)
    assert blurred.shape == x.shape
    assert blurred.std() < x.std() / 2


def test_masks_keep_range_and_cells():
    masks = torch.zeros(1, 1, 4)
    masks[0, 0, 0] = 1.0  # the upper left of 2 x 2 cells
    pixels = upsample_masks(masks, grid=2, size=(32, 32))
    assert pixels.shape == (1, 1, 1, 32, 32)
    assert pixels[0, 0, 0, :12, :12].min() == pytest.approx(1.0)
    assert pixels[0, 0, 0, 20:, :].max() == pytest.approx(0.0)
    assert pixels.mean().item() == pytest.approx(0.25, abs=0.01)


def test_remove_is_the_convex_combination_and_leaves_inputs_alone():
    x, reference = torch.full((1, 3, 2, 2), 0.8), torch.full((1, 3, 2, 2), 0.2)
    masks = torch.tensor([[[[[0.0, 1.0], [0.5, 0.25]]]]])
    out = remove(x, masks, reference)
    assert torch.allclose(out[0, 0, 1], torch.tensor([[0.8, 0.2], [0.5, 0.65]]))
    assert x.eq(0.8).all()
