import pytest
import torch

from aha_core.config import load_params
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import (
    choose_classes,
    draw_step,
    generator,
    removal_areas,
    removal_masks,
    smoothness,
)
from aha_core.ranking.soft_topk import SoftTopK
from aha_core.targets import Target
from tests.conftest import ROOT

PARAMS = load_params(ROOT / "params.yaml")


def test_generator_is_a_function_of_the_whole_key():
    draws = [torch.rand(3, generator=generator(*key)).tolist() for key in [(1, 2), (1, 2), (2, 1), (1, 2, 0)]]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


def test_stratified_fractions_lie_in_their_strata_and_estimate_the_integral_without_bias():
    objective = PARAMS.objective.model_copy(update={"fractions": 4, "sampling": "stratified"})
    draws = [draw_step(PARAMS.ranking, objective, seed=0, step=step) for step in range(500)]
    fractions = torch.stack([draw.fractions for draw in draws])
    strata = (fractions * 4).floor()
    assert torch.equal(strata, torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3]).expand(500, 8))
    estimate = (fractions[:, :4].square() * draws[0].weights).sum(dim=1).mean()  # of the integral of p^2
    assert estimate.item() == pytest.approx(1 / 3, abs=0.01)


def test_grid_fractions_are_the_papers_trapezoid():
    objective = PARAMS.objective.model_copy(update={"fractions": 16, "sampling": "grid"})
    draw = draw_step(PARAMS.ranking, objective, seed=0, step=3)
    assert torch.allclose(draw.fractions[:14], torch.linspace(0, 1, 16)[1:-1])
    ends = draw.end_weight * (0.0**3 + 1.0**3)
    inner = (draw.fractions[:14] ** 3 * draw.weights).sum().item()
    assert inner + ends == pytest.approx(torch.trapezoid(torch.linspace(0, 1, 16) ** 3, dx=1 / 15).item())


def test_draws_cover_grids_and_references():
    draws = [draw_step(PARAMS.ranking, PARAMS.objective, seed=0, step=step) for step in range(300)]
    assert {draw.grid for draw in draws} == set(range(PARAMS.ranking.grid_min, PARAMS.ranking.grid_max + 1))
    assert {draw.reference for draw in draws} == set(PARAMS.objective.references)


def test_second_role_is_the_label_where_the_prediction_is_wrong_else_the_runner_up():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    labels, parts = torch.tensor([0, 0]), torch.tensor([2, 1])
    classes = choose_classes(probabilities, labels, parts, ("predicted", "runner_up", "label", "second", "part"))
    assert classes.tolist() == [[0, 1], [1, 2], [0, 0], [1, 0], [2, 1]]


class Brightness(Target):
    """A classifier whose class 1 is the mean brightness."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, x):
        bright = x.mean(dim=(1, 2, 3)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([1 - bright, bright], dim=1).log()


def areas(x, maps, relaxation, grid, fractions):
    masks = removal_masks(maps, relaxation, grid, torch.tensor(fractions), standardised=True)
    passes = MaskedPasses(Brightness(), "fp32", 1.0)
    scores = passes(x, torch.ones(len(x), dtype=torch.long), masks, torch.zeros_like(x))
    return removal_areas(scores, torch.ones(1))


def test_removing_the_bright_half_first_lowers_a_brightness_score():
    x = torch.zeros(1, 3, 32, 32)
    x[..., :16] = 1.0
    good = x[:, :1].clone()
    assert [float(auc) for auc in areas(x, good, SoftTopK(1e-3), 8, [0.5, 0.5])] == pytest.approx([0, 0.5], abs=0.02)
    assert [float(auc) for auc in areas(x, -good, SoftTopK(1e-3), 8, [0.5, 0.5])] == pytest.approx([0.5, 0], abs=0.02)


def test_gradient_of_the_loss_raises_the_important_cells():
    x = torch.zeros(1, 3, 16, 16)
    x[..., :8, :8] = 1.0
    maps = torch.zeros(1, 1, 16, 16, requires_grad=True)
    noise = 0.01 * torch.rand(1, 1, 16, 16, generator=generator(0))
    deletion, lif = areas(x, maps + noise, SoftTopK(0.5), 4, [0.3, 0.7])
    (deletion + 1 - lif).sum().backward()
    step = -maps.grad[0, 0]
    assert step[:8, :8].mean() > 0 > step[8:, 8:].mean()


def test_smoothness_is_free_for_plateaus_and_costs_for_peaks():
    flat, peak = torch.full((1, 1, 31, 31), 3.0), torch.zeros(1, 1, 31, 31)
    peak[..., 15, 15] = 1.0
    assert smoothness(flat, 15).item() == pytest.approx(0.0)
    assert smoothness(peak, 15).item() == pytest.approx((1 - 1 / 225) ** 2 / 961)
