"""Every reference by value, noise by seed, callables by their contract."""

import pytest
import torch

from aha_core.config import PerturbationConfig
from aha_core.errors import DataError
from aha_core.perturbation import gaussian_blur
from aha_core.references import evaluation_reference

CONFIG = PerturbationConfig(mean=(0.1, 0.2, 0.3), blur_kernel=5, blur_sigma=2)
IMAGES = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def test_named_references():
    before = IMAGES.clone()
    assert evaluation_reference(IMAGES, "black", CONFIG, [0, 1]).abs().max() == 0
    mean = evaluation_reference(IMAGES, "mean", CONFIG, [0, 1])
    assert mean[1, :, 3, 4].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert evaluation_reference(IMAGES, "blur", CONFIG, [0, 1]).equal(gaussian_blur(IMAGES, 5, 2))
    assert IMAGES.equal(before)


def test_noise_belongs_to_the_image():
    noise = evaluation_reference(IMAGES, "noise", CONFIG, [0, 1])
    assert noise.min() >= 0 and noise.max() <= 1 and not noise[0].equal(noise[1])
    assert noise[1:].equal(evaluation_reference(IMAGES[1:], "noise", CONFIG, [1]))


def test_callables():
    def inverted(x: torch.Tensor) -> torch.Tensor:
        return x.neg_().add_(1)  # writes into its input, which must not be ours

    before = IMAGES.clone()
    assert evaluation_reference(IMAGES, inverted, CONFIG, [0, 1]).equal(1 - before)
    assert IMAGES.equal(before)
    assert evaluation_reference(IMAGES, lambda x: x.double(), CONFIG, [0, 1]).dtype == IMAGES.dtype
    with pytest.raises(DataError, match=r"reference .*lambda.* must give finite images of shape \(2, 3, 8, 8\)"):
        evaluation_reference(IMAGES, lambda x: x * float("nan"), CONFIG, [0, 1])
