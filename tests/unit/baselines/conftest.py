"""Small random targets and images for every baseline."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor

from aha_core.baselines import BaselineSettings
from aha_core.targets import Target

MakeTarget = Callable[..., Target]


@pytest.fixture(scope="session")
def make_target() -> MakeTarget:
    """Builds a random target from timm's name and arguments, with a head strong enough that classes differ."""

    def make(name: str, **kwargs) -> Target:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(name, num_classes=5, **kwargs)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        return Target(name, model, 64, list("abcde"))

    return make


@pytest.fixture(scope="session")
def tiny_vit(make_target: MakeTarget) -> MakeTarget:
    """Builds a ViT of 3 blocks, 3 heads and 24 channels."""
    small = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return lambda **kwargs: make_target("vit_tiny_patch16_224", **(small | kwargs))


@pytest.fixture(scope="session")
def tiny_swin(make_target: MakeTarget) -> Target:
    return make_target("swin_tiny_patch4_window7_224", img_size=64, embed_dim=12, depths=(1, 1), num_heads=(1, 1))


@pytest.fixture(scope="session")
def vit(tiny_vit: MakeTarget) -> Target:
    return tiny_vit()


@pytest.fixture(scope="session")
def mobilenet(make_target: MakeTarget) -> Target:
    return make_target("mobilenetv2_035")


@pytest.fixture
def images() -> Tensor:
    return torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def settings() -> BaselineSettings:
    return BaselineSettings(
        seed=7,
        ig_steps=4,
        rise_masks=10,
        patch_grid=3,
        mask_steps=4,
        batch_size=2,
        reference=torch.zeros_like,
        fastshap=None,
    )
