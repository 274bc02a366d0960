"""Max-sensitivity and model randomisation: methods whose answer is known."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aha_core.metrics import max_sensitivity, model_randomisation
from aha_core.metrics.randomisation import parameter_groups, randomised

CLASSES = torch.tensor([0, 1])


class Fixed:
    """The same map for every image."""

    def attribute(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        return torch.arange(x[0, 0].numel(), dtype=x.dtype).view_as(x[:1, :1]).expand(len(x), 1, -1, -1)


class Red:
    """The red channel as the map."""

    def attribute(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        return 3 * x[:, :1]


class TestMaxSensitivity:
    images = 0.3 + 0.4 * torch.rand((2, 3, 6, 6), generator=torch.Generator().manual_seed(0))

    def run(self, method, seeds=(3, 4), **kwargs) -> Tensor:
        maps = method.attribute(self.images)
        return max_sensitivity(method, self.images, CLASSES[: len(self.images)], maps, seeds, **kwargs)

    def test_a_constant_method_is_insensitive(self):
        assert self.run(Fixed()).tolist() == [0.0, 0.0]

    def test_by_hand(self):
        generator = torch.Generator().manual_seed(4)
        shifts = [2 * torch.rand((3, 6, 6), generator=generator) - 1 for _ in range(5)]
        expected = max(0.1 * shift[0].norm() / self.images[1, 0].norm() for shift in shifts)
        worst = self.run(Red(), radius=0.1, draws=5)
        assert worst[1].item() == pytest.approx(expected.item(), rel=1e-5)
        assert self.run(Red(), radius=0.2, draws=5)[1].item() > 1.9 * worst[1].item()
        assert worst.equal(self.run(Red(), radius=0.1, draws=5))
        assert worst[0] != self.run(Red(), seeds=(5, 4), radius=0.1, draws=5)[0]

    def test_agrees_with_quantus(self):
        generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]

        def perturb(arr, indices, **_kwargs):
            """Our draws, in the order in which quantus asks for them."""
            shifts = [2 * torch.rand((3, 6, 6), generator=one) - 1 for one in generators]
            return (arr + 0.1 * torch.stack(shifts).flatten(1).numpy()).astype(arr.dtype)

        class Net(nn.Module):
            def forward(self, x):
                return x.mean(dim=(2, 3))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # third-party import and parameterisation warnings
            import quantus

            metric = quantus.MaxSensitivity(
                nr_samples=5, perturb_func=perturb, abs=False, normalise=False, disable_warnings=True
            )
            theirs = metric(
                model=Net(),
                x_batch=self.images.numpy(),
                y_batch=CLASSES.numpy(),
                explain_func=lambda inputs, **_kwargs: Red().attribute(torch.as_tensor(inputs)).numpy(),
            )
        np.testing.assert_allclose(self.run(Red(), radius=0.1, draws=5), theirs, atol=1e-6)


class Net(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).tanh()).tanh().mean(dim=(2, 3)))


class Gradient:
    """Gradient of the class score."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def attribute(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        assert target is not None
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.model(leaf).gather(1, target[:, None]).sum(), leaf)
        return gradient.sum(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


class TestRandomisation:
    images = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))

    def test_groups_from_the_input_to_the_output(self, net):
        groups = parameter_groups(net)
        assert [name for name, _ in groups] == ["embedding", "stem", "blocks.0", "blocks.1", "head"]
        assert sum(len(parameters) for _, parameters in groups) == len(list(net.parameters()))

    def test_cascade_leaves_the_model_and_keeps_the_scale(self, net):
        before = copy.deepcopy(net.state_dict())
        changed = []
        for name, twin in randomised(net, seed=0):
            changed.append(name)
            differing = {key for key, value in twin.state_dict().items() if not value.equal(before[key])}
            if name == "blocks.1":
                assert differing == {"head.weight", "head.bias", "blocks.1.weight", "blocks.1.bias"}
                spread = twin.head.weight.std(correction=0) / net.head.weight.std(correction=0)
                assert 0.4 < spread < 1.6
        assert changed == ["head", "blocks.1", "blocks.0", "stem", "embedding"]
        assert all(net.state_dict()[key].equal(value) for key, value in before.items())

    def test_a_map_that_ignores_the_model_fails(self, net):
        steps = model_randomisation(lambda _: Fixed(), net, self.images, CLASSES, seed=0)
        assert len(steps) == 5
        for step in steps:
            assert step.spearman.tolist() == pytest.approx([1, 1]) and step.ssim.tolist() == pytest.approx([1, 1])

    def test_maps_of_mean_zero_are_not_folded(self, net):
        """Absolute values would find a reversed map equal; a shift of the whole map says nothing."""

        class Scaled:
            def __init__(self, factor: float, shift: float) -> None:
                self.factor, self.shift = factor, shift

            def attribute(self, x: Tensor, target: Tensor | None = None) -> Tensor:
                return self.factor * (x[:, :1] - x[:, :1].mean(dim=(2, 3), keepdim=True)) + self.shift

        for factor, expected in ((-1.0, -1.0), (1.0, 1.0)):
            made = iter([Scaled(1.0, 0.0), Scaled(factor, 0.3)])
            (step,) = model_randomisation(lambda _, made=made: next(made), net, self.images, CLASSES, seed=0, depths=1)
            assert step.spearman.tolist() == pytest.approx([expected] * 2)
            assert (step.ssim > 0.99).tolist() == [factor > 0] * 2

    def test_a_gradient_passes(self, net):
        steps = model_randomisation(Gradient, net, self.images, CLASSES, seed=0, depths=2)
        assert [step.group for step in steps] == ["blocks.1", "embedding"]
        assert steps[-1].spearman.abs().max() < 0.5 and steps[-1].ssim.max() < 0.5
        again = model_randomisation(Gradient, net, self.images, CLASSES, seed=0, depths=2)
        assert again[-1].spearman.equal(steps[-1].spearman)
