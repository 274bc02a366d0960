"""Coalitions, efficiency and the least-squares loss against values by hand and exact Shapley values."""

from itertools import combinations, permutations

import pytest
import torch

from aha_core.shapley import cell_values, efficient, shapley_loss, shapley_masks

SUBSETS = [kept for size in (1, 2) for kept in combinations(range(3), size)]  # of three players: the kernel is uniform


def optimum(value) -> list[float]:
    """Where the loss over all coalitions of a three-player game has its minimum."""
    kept = torch.tensor([[player in subset for player in range(3)] for subset in SUBSETS])[:, None]
    scores = torch.tensor([value(subset) for subset in SUBSETS])[:, None]
    none, full = torch.tensor([value(())]), torch.tensor([value((0, 1, 2))])
    phi = torch.zeros(1, 3, requires_grad=True)
    optimiser = torch.optim.LBFGS([phi], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        total = shapley_loss(phi, kept, scores, none, full).sum()
        total.backward()
        return total

    optimiser.step(loss)
    return efficient(phi.detach(), none, full)[0].tolist()


def shapley(value) -> list[float]:
    """The definition: mean marginal contribution over all orders."""
    orders = list(permutations(range(3)))
    gains = [
        [value(order[: order.index(j) + 1]) - value(order[: order.index(j)]) for order in orders] for j in range(3)
    ]
    return [sum(own) / len(orders) for own in gains]


def test_shapley_masks_come_in_pairs_of_the_kernels_sizes():
    masks = shapley_masks(6, 4000, torch.Generator().manual_seed(0))
    assert masks[0::2].equal(~masks[1::2])
    share = torch.bincount(masks.sum(dim=1), minlength=7).double() / 4000
    kernel = torch.tensor([0.0, 1 / 5, 1 / 8, 1 / 9, 1 / 8, 1 / 5, 0.0], dtype=torch.float64)
    assert (share - kernel / kernel.sum()).abs().max() < 0.03
    assert len(shapley_masks(6, 5, torch.Generator().manual_seed(0))) == 5


def test_loss_by_hand():
    """phi = (.3, .1) lacks .2 of .6 and becomes (.4, .2); it misses v({1}) by 0 and v({2}) by .1."""
    phi, none, full = torch.tensor([[0.3, 0.1]]), torch.tensor([0.1]), torch.tensor([0.7])
    assert efficient(phi, none, full)[0].tolist() == pytest.approx([0.4, 0.2])
    kept, scores = torch.tensor([[[True, False]], [[False, True]]]), torch.tensor([[0.5], [0.4]])
    assert shapley_loss(phi, kept, scores, none, full).tolist() == pytest.approx([(0 + 0.1**2) / 2])


def test_an_additive_game_has_its_weights_as_optimum_and_no_loss_there():
    weights = torch.tensor([0.5, -0.2, 0.1])
    value = lambda subset: 0.05 + sum(float(weights[player]) for player in subset)  # noqa: E731
    assert optimum(value) == pytest.approx(weights.tolist(), abs=1e-4)
    kept = shapley_masks(3, 8, torch.Generator().manual_seed(0))[:, None]
    scores = 0.05 + kept.float() @ weights
    loss = shapley_loss(weights[None] + 0.3, kept, scores, torch.tensor([0.05]), torch.tensor([0.45]))
    assert loss.item() == pytest.approx(0, abs=1e-12)  # efficiency takes the common shift out


def test_any_game_has_its_exact_shapley_values_as_optimum():
    table = {(): 0.1, (0,): 0.3, (1,): 0.15, (2,): 0.1, (0, 1): 0.8, (0, 2): 0.35, (1, 2): 0.2, (0, 1, 2): 0.9}
    value = lambda subset: table[tuple(sorted(subset))]  # noqa: E731
    assert optimum(value) == pytest.approx(shapley(value), abs=1e-4)


def test_cell_values_are_means_divided_by_the_number_of_cells():
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., :2, 2:] = 8.0
    assert cell_values(maps, 2).tolist() == [[0, 2, 0, 0]]
