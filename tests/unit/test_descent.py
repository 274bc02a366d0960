"""Steps of a refinement: against their formula, and what they leave alone."""

import pytest
import torch

from aha_core.descent import DESCENTS, Normalised


@pytest.fixture
def cells() -> torch.Tensor:
    return torch.zeros(2, 1, 5, 5, requires_grad=True)


@pytest.fixture
def gradients() -> list[list[torch.Tensor]]:
    """Of one leaf, for three references."""
    return [[torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(seed))] for seed in range(3)]


def test_a_normalised_step_is_its_formula(cells, gradients):
    descend = Normalised([cells], 0.3)
    descend(gradients)
    for image in range(2):
        unit = [one[0][image] / one[0][image].square().mean().sqrt() for one in gradients]
        total = sum(one.clamp(-3, 3) for one in unit)
        expected = -0.3 * (total / total.square().mean().sqrt()).clamp(-3, 3)
        torch.testing.assert_close(cells[image].detach(), expected)
    first = cells.detach().clone()
    descend(gradients)
    torch.testing.assert_close(cells.detach(), 2 * first)


def test_each_reference_has_the_same_say_in_a_normalised_step(cells, gradients):
    Normalised([cells], 0.3)(gradients)
    steep = torch.zeros_like(cells).requires_grad_()
    Normalised([steep], 0.3)([[1e6 * gradients[0][0]], gradients[1], [1e-6 * gradients[2][0]]])
    torch.testing.assert_close(steep, cells)


@pytest.mark.parametrize("name", DESCENTS)
def test_an_image_without_gradient_stays_and_one_goes_downhill(name, cells):
    descend = DESCENTS[name]([cells], 0.1)
    goal = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        gradient = torch.zeros_like(cells)
        gradient[1] = cells.detach()[1] - goal
        descend([[gradient]])
    assert not cells[0].any()
    assert (cells[1] - goal).square().mean() < 0.2 * goal.square().mean()


def test_adam_is_torchs_on_the_sum(cells, gradients):
    twin = cells.detach().clone().requires_grad_()
    descend, optimiser = DESCENTS["adam"]([cells], 0.3), torch.optim.Adam([twin], lr=0.3)
    for scale in (1.0, -2.0):
        descend([[scale * one] for (one,) in gradients])
        twin.grad = scale * sum(one for (one,) in gradients)
        optimiser.step()
    torch.testing.assert_close(cells, twin)
