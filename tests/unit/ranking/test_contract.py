"""The contract of every relaxation: sum k, range, monotone in k, permutation equivariance, limits, gradients."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aha_core.config import RankingConfig
from aha_core.objective import generator
from aha_core.ranking import RELAXATIONS, HardTopK, make_relaxation, marginal_residual, standardise
from aha_core.ranking.gumbel_sinkhorn import GumbelSinkhorn
from tests.conftest import small_params

CONFIG = RankingConfig.model_validate(small_params()["ranking"])
ITERATED = ("gumbel_sinkhorn", "sinkhorn")  # converge slowly as tau falls
methods = pytest.mark.parametrize("method", RELAXATIONS)


def relax(method, tau, count, iterations=30, generators=None, **changes):
    config = CONFIG.model_copy(update={"method": method, "iterations": iterations, **changes})
    return make_relaxation(config, tau, count, generators)


def scores(seed: int, count: int, batch: int = 2, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(batch, count, generator=generator(seed), dtype=torch.float64)


def hard_masks(s: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return HardTopK(range(len(s))).soft_topk_masks(s, k)


@methods
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 40), tau=st.floats(0.05, 3.0), share=st.floats(0, 1),
    distinct=st.sampled_from([1, 3, 1000]), scale=st.sampled_from([1.0, 1e4]),
)  # fmt: skip
@example(seed=0, count=1, tau=0.3, share=0.5, distinct=1, scale=1.0)
@example(seed=0, count=7, tau=0.3, share=1 / 7, distinct=1, scale=1e4)
def test_masks_sum_to_k_in_range_and_monotone(method, seed, count, tau, share, distinct, scale):
    s = scale * torch.round(scores(seed, count) * distinct) / distinct  # few distinct values: ties
    k = torch.tensor([0.0, share * count / 2, share * count, share * count, count], dtype=torch.float64)
    masks = relax(method, tau, count).soft_topk_masks(s, k)
    assert masks.shape == (5, 2, count)
    assert masks.isfinite().all()
    assert torch.allclose(masks.sum(dim=-1), k[:, None].expand(5, 2), atol=1e-5 * max(count, 1))
    assert masks.min() >= 0
    if method != "gumbel_sinkhorn":  # the paper's: cells sum to 1 only up to its residual
        assert masks.max() <= 1 + 1e-9
        assert torch.allclose(masks[-1], torch.ones_like(masks[-1]), atol=1e-6)
    assert (masks.diff(dim=0) >= -1e-6).all()


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", ["normal", "huge", "constant", "constant and huge", "two values"])
def test_narrow_types_never_give_nan(method, dtype, values):
    s = {
        "normal": scores(3, 30), "huge": 1e4 * scores(3, 30), "constant": torch.zeros(2, 30),
        "constant and huge": torch.full((2, 30), -1e4), "two values": (scores(3, 30) > 0).double() * 2e4 - 1e4,
    }[values].to(dtype).requires_grad_()  # fmt: skip
    masks = relax(method, 0.15, 30).soft_topk_masks(s, torch.tensor([0.0, 0.4, 7.0, 29.9, 30.0]))
    masks.float().square().sum().backward()
    assert masks.dtype == dtype
    assert masks.isfinite().all()
    assert s.grad.isfinite().all()
    slack = 0.2 if dtype == torch.bfloat16 else 2e-2  # 8 bits of 30 cells; 24 bits of 1e4 / tau
    assert torch.allclose(masks.float().sum(dim=-1)[2], torch.tensor(7.0), atol=slack)


@methods
def test_constant_scores_give_uniform_masks(method):
    masks = relax(method, 0.3, 8).soft_topk_masks(torch.full((1, 8), 3.0), torch.tensor([2.0]))
    assert torch.allclose(masks, torch.full((1, 1, 8), 0.25), atol=1e-4)


@methods
def test_tied_cells_share(method):
    s = torch.tensor([[2.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    (mask,) = relax(method, 0.1, 4).soft_topk_masks(s, torch.tensor([2.0]))[:, 0]
    assert float(mask[1]) == pytest.approx(float(mask[2]), abs=1e-9)


@methods
def test_permuting_cells_permutes_masks(method):
    s, order, k = scores(2, 20), torch.randperm(20, generator=generator(5)), torch.tensor([3.0, 11.5])
    relaxation = relax(method, 0.4, 20)
    assert torch.allclose(relaxation.soft_topk_masks(s[:, order], k), relaxation.soft_topk_masks(s, k)[..., order])


@methods
def test_budgets_may_come_in_any_order(method):
    s, k = scores(2, 12), torch.tensor([9.0, 0.0, 2.5, 12.0, 9.0])
    masks, risen = (relax(method, 0.4, 12).soft_topk_masks(s, b) for b in (k, k.sort().values))
    assert torch.allclose(masks[k.argsort()], risen, atol=1e-6)


@methods
def test_low_temperature_is_the_hard_ranking(method):
    count, tau, iterations = (6, 0.06, 4000) if method in ITERATED else (50, 1e-3, 30)
    s = torch.linspace(-1.7, 1.7, count, dtype=torch.float64)[torch.randperm(count, generator=generator(0))][None]
    k = torch.tensor([0.0, 1.0, count // 2, count - 1.0, count], dtype=torch.float64)
    assert torch.allclose(relax(method, tau, count, iterations).soft_topk_masks(s, k), hard_masks(s, k), atol=2e-2)


@methods
def test_high_temperature_is_uniform(method):
    masks = relax(method, 1e4, 10).soft_topk_masks(scores(4, 10), torch.tensor([4.0]))
    assert torch.allclose(masks, torch.full_like(masks, 0.4), atol=1e-3)


@methods
def test_gradient_matches_finite_differences(method, monkeypatch):
    monkeypatch.setattr("aha_core.ranking.soft_topk.RESIDUAL", 1e-14)
    monkeypatch.setattr("aha_core.ranking.transport.RESIDUAL", 1e-13)
    k = torch.tensor([2.0, 4.7, 8.0], dtype=torch.float64)
    relaxation = relax(method, 0.6, 9, iterations=400 if method in ITERATED else 30)
    assert torch.autograd.gradcheck(lambda s: relaxation.soft_topk_masks(s, k), scores(6, 9).requires_grad_())


@methods
def test_one_temperature_means_the_same_edge_width(method):
    """Slope of the mask at its threshold: 1 / (4 tau) for the logistic; within half for every method."""
    s = standardise(scores(11, 400, batch=1).float())
    tau = 0.3
    (mask,) = relax(method, tau, 400, iterations=200).soft_topk_masks(s, torch.tensor([100.0, 200.0, 300.0]))[1]
    near = (s[0].abs() < 0.15).nonzero()[:, 0]
    x, y = s[0, near], mask[near]
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert slope == pytest.approx(1 / (4 * tau), rel=0.5)


def test_residual_shows_unconverged_iterations():
    s, k = standardise(scores(7, 100).float()), torch.linspace(0, 100, 5)
    few, many = (marginal_residual(relax("gumbel_sinkhorn", 0.15, 100, n), s, k) for n in (1, 300))
    assert few > 10 * many
    for method in ("soft_topk", "lapsum", "transport", "softsort", "neuralsort", "sinkhorn"):
        assert marginal_residual(relax(method, 0.15, 100), s, k) < 1e-3


def test_hard_masks_break_ties_by_the_seed_and_split_between_integers():
    s = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    masks = HardTopK([1]).soft_topk_masks(s, torch.tensor([1.0, 2.5]))
    assert torch.equal(masks[0, 0], torch.tensor([1.0, 0, 0, 0, 0]))
    assert sorted(masks[1, 0].tolist()) == [0, 0, 0.5, 1, 1]
    orders = {tuple(HardTopK([n]).soft_topk_masks(s, torch.tensor([2.0]))[0, 0].tolist()) for n in range(20)}
    assert len(orders) == 3


@pytest.mark.parametrize("method", ["gumbel_sinkhorn", "transport"])
def test_noise_is_fresh_at_each_call_and_a_function_of_the_images_generators(method):
    s, k = scores(9, 12, batch=3), torch.tensor([5.0])
    noisy = relax(method, 0.5, 12, generators=[generator(1, i) for i in range(3)])
    first, second = noisy.soft_topk_masks(s, k), noisy.soft_topk_masks(s, k)
    assert not torch.allclose(first, second)
    alone = relax(method, 0.5, 12, generators=[generator(1, 2)]).soft_topk_masks(s[2:], k)
    assert torch.allclose(first[:, 2:], alone)


def test_paper_kernel_rows_sum_to_one_and_columns_nearly():
    permutation = GumbelSinkhorn(1.0, 30).soft_permutation(scores(7, 16))
    assert torch.allclose(permutation.sum(dim=2), torch.ones(2, 16, dtype=torch.float64))
    assert torch.allclose(permutation.sum(dim=1), torch.ones(2, 16, dtype=torch.float64), atol=0.05)


def test_paper_kernel_is_the_squared_distance_to_the_anchors():
    s, tau = scores(8, 6, batch=1), 0.4
    log_kernel = -((s[0][None, :] - torch.linspace(1, 0, 6, dtype=torch.float64)[:, None]) ** 2) / tau
    for _ in range(3):
        log_kernel = log_kernel - log_kernel.logsumexp(dim=0, keepdim=True)
        log_kernel = log_kernel - log_kernel.logsumexp(dim=1, keepdim=True)
    assert torch.allclose(GumbelSinkhorn(tau, 3).soft_permutation(s)[0], log_kernel.exp())


def test_paper_mask_is_linear_between_integers():
    relaxation, s = GumbelSinkhorn(0.5, 30), scores(8, 10)
    low, middle, high = relaxation.soft_topk_masks(s, torch.tensor([3.0, 3.25, 4.0], dtype=torch.float64))
    assert torch.allclose(middle, 0.75 * low + 0.25 * high)


def test_raw_scores_use_the_methods_own_temperature():
    assert relax("gumbel_sinkhorn", 0.3, 10, standardise=False).tau == 0.3
    assert relax("gumbel_sinkhorn", 0.3, 10).tau == pytest.approx(2 * math.pi**2 / 3 / math.sqrt(2 * math.pi) * 0.09)


def test_two_bins_are_soft_top_k():
    s, k = standardise(scores(1, 60).float()), torch.tensor([21.0])
    both = [relax(method, 0.3, 60).soft_topk_masks(s, k) for method in ("transport", "soft_topk")]
    assert torch.allclose(*both, atol=1e-4)


def test_lapsum_threshold_solves_its_equation():
    s, k = scores(3, 15, batch=1), torch.tensor([0.01, 1.0, 6.3, 14.0, 14.99], dtype=torch.float64)
    scale = 0.2
    masks = relax("lapsum", scale / (math.pi / math.sqrt(6)), 15).soft_topk_masks(s, k)[:, 0]
    distance = torch.where(masks > 0.5, -torch.log(2 * (1 - masks)), torch.log(2 * masks)) * scale
    thetas = s[0] - distance
    assert torch.allclose(thetas, thetas[:, :1].expand_as(thetas), atol=1e-6)


def test_standardise_removes_scale_and_shift():
    s = scores(10, 30)
    assert torch.allclose(standardise(5 * s + 100), standardise(s), atol=1e-4)
    assert torch.equal(standardise(torch.full((1, 4), 7.0)), torch.zeros(1, 4))
    assert torch.equal(standardise(torch.zeros(1, 4)), torch.zeros(1, 4))


@pytest.mark.parametrize("unit", [1e-30, 1e-7, 1e30])
def test_standardise_knows_no_unit(unit):
    s = scores(10, 30)
    assert torch.allclose(standardise(s * unit), standardise(s), atol=1e-5)
    assert standardise(torch.full((2, 37), 0.1 * unit)).abs().max() == 0
