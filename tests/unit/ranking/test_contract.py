"""The contract of every relaxation: sum k, range, monotone in k, permutation equivariance, limits, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aha_core.objective import generator
from aha_core.ranking import standardise
from aha_core.ranking.gumbel_sinkhorn import GumbelSinkhorn
from aha_core.ranking.soft_topk import SoftTopK

RELAXATIONS = {
    "soft_topk": lambda tau: SoftTopK(tau),
    "gumbel_sinkhorn": lambda tau: GumbelSinkhorn(tau, iterations=30),
}
methods = pytest.mark.parametrize("make", RELAXATIONS.values(), ids=RELAXATIONS.keys())


def scores(seed: int, count: int, batch: int = 2, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(batch, count, generator=generator(seed), dtype=torch.float64)


@methods
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), tau=st.floats(0.1, 3.0), share=st.floats(0, 1))
def test_masks_are_in_range_and_sum_to_k(make, seed, count, tau, share):
    k = torch.tensor([0.0, share * count, count], dtype=torch.float64)
    masks = make(tau).soft_topk_masks(scores(seed, count), k)
    assert masks.shape == (3, 2, count)
    assert masks.min() >= 0
    assert torch.allclose(masks.sum(dim=-1), k[:, None].expand(3, 2), atol=1e-4)


@methods
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_scores_give_uniform_masks_without_nan(make, value, dtype):
    masks = make(0.3).soft_topk_masks(torch.full((1, 8), value, dtype=dtype), torch.tensor([2.0]))
    if make is RELAXATIONS["soft_topk"] or value == 0:
        assert torch.allclose(masks, torch.full((1, 1, 8), 0.25, dtype=dtype), atol=1e-3)
    assert masks.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_topk_takes_huge_scores_and_low_precision(dtype):
    masks = SoftTopK(0.3).soft_topk_masks((1e4 * scores(3, 30)).to(dtype), torch.tensor([7.0]))
    assert masks.isfinite().all()
    assert torch.allclose(masks.float().sum(dim=-1), torch.tensor(7.0), atol=0.1)


@methods
def test_masks_grow_with_k(make):
    masks = make(0.5).soft_topk_masks(scores(1, 25), torch.linspace(0, 25, 9, dtype=torch.float64))
    assert (masks.diff(dim=0) >= -1e-9).all()


@methods
def test_permuting_cells_permutes_masks(make):
    s, order, k = scores(2, 20), torch.randperm(20, generator=generator(5)), torch.tensor([3.0, 11.5])
    assert torch.allclose(make(0.4).soft_topk_masks(s[:, order], k), make(0.4).soft_topk_masks(s, k)[..., order])


def test_low_temperature_is_the_hard_ranking():
    s = scores(4, 50)
    hard = torch.zeros_like(s).scatter(1, s.topk(12, dim=1).indices, 1.0)
    assert torch.allclose(SoftTopK(1e-4).soft_topk_masks(s, torch.tensor([12.0]))[0], hard, atol=1e-3)


@methods
def test_high_temperature_is_uniform(make):
    masks = make(1e5).soft_topk_masks(scores(4, 10), torch.tensor([4.0]))
    assert torch.allclose(masks, torch.full_like(masks, 0.4), atol=1e-3)


@methods
def test_gradient_matches_finite_differences(make, monkeypatch):
    monkeypatch.setattr("aha_core.ranking.soft_topk.RESIDUAL", 1e-14)
    k = torch.tensor([2.0, 4.7, 8.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: make(0.6).soft_topk_masks(s, k), scores(6, 9).requires_grad_())


def test_sinkhorn_rows_sum_to_one_and_columns_nearly():
    permutation = GumbelSinkhorn(1.0, 30).soft_permutation(scores(7, 16))
    assert torch.allclose(permutation.sum(dim=2), torch.ones(2, 16, dtype=torch.float64))
    assert torch.allclose(permutation.sum(dim=1), torch.ones(2, 16, dtype=torch.float64), atol=0.05)


def test_sinkhorn_mask_is_linear_between_integers():
    relax, s = GumbelSinkhorn(0.5, 30), scores(8, 10)
    low, middle, high = relax.soft_topk_masks(s, torch.tensor([3.0, 3.25, 4.0], dtype=torch.float64))
    assert torch.allclose(middle, 0.75 * low + 0.25 * high)


def test_gumbel_noise_is_fresh_at_each_call_and_a_function_of_the_images_generators():
    s, k = scores(9, 12, batch=3), torch.tensor([5.0])
    relax = GumbelSinkhorn(1.0, 30, [generator(1, i) for i in range(3)])
    first, second = relax.soft_topk_masks(s, k), relax.soft_topk_masks(s, k)
    assert not torch.allclose(first, second)
    alone = GumbelSinkhorn(1.0, 30, [generator(1, 2)]).soft_topk_masks(s[2:], k)
    assert torch.allclose(first[:, 2:], alone)


def test_standardise_removes_scale_and_shift():
    s = scores(10, 30)
    assert torch.allclose(standardise(5 * s + 100), standardise(s), atol=1e-4)
    assert torch.equal(standardise(torch.full((1, 4), 7.0)), torch.zeros(1, 4))
