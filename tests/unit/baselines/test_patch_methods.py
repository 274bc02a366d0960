"""Occlusion, Kernel SHAP, LIME, greedy order and extremal masks on classifiers whose right answer is known."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aha_core.baselines import make_baseline
from aha_core.baselines.surrogates import lime_fit, shapley_fit
from aha_core.targets import Target

CLASSES = torch.tensor([1, 0])


class Quadrants(nn.Module):
    """Two logits that mix the means of the four quadrants with weights and one product."""

    num_classes, pretrained_cfg = 2, {"mean": (0.0,) * 3, "std": (1.0,) * 3}

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = nn.functional.adaptive_avg_pool2d(x, 2).mean(dim=1).flatten(1).unbind(dim=1)
        logit = a - 2 * b + 0.5 * c + 3 * c * d
        return torch.stack([-logit, logit], dim=1)


@pytest.fixture
def target() -> Target:
    return Target("quadrants", Quadrants(), 8, ["a", "b"])


@pytest.fixture
def images() -> Tensor:
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def patches(settings):
    return replace(settings, patch_grid=2, rise_masks=600, mask_steps=60, batch_size=64)


def quadrants(maps: Tensor) -> Tensor:
    """One value per quadrant, where the map is constant there."""
    pooled = nn.functional.avg_pool2d(maps, 4)
    torch.testing.assert_close(pooled.repeat_interleave(4, 2).repeat_interleave(4, 3), maps)
    return pooled.flatten(1)


def value(target: Target, image: Tensor, kept: tuple[int, ...], label: int) -> float:
    mask = torch.tensor([cell in kept for cell in range(4)]).view(1, 2, 2).repeat_interleave(4, 1)
    return float(target.probabilities((image * mask.repeat_interleave(4, 2))[None])[0, label])


def shapley(target: Target, image: Tensor, label: int) -> list[float]:
    """phi_i = sum over S without i of |S|! (3 - |S|)! / 4! (v(S + i) - v(S))."""
    values = []
    for cell in range(4):
        others = [one for one in range(4) if one != cell]
        total = 0.0
        for size in range(4):
            share = math.factorial(size) * math.factorial(3 - size) / 24
            for kept in itertools.combinations(others, size):
                total += share * (value(target, image, (*kept, cell), label) - value(target, image, kept, label))
        values.append(total)
    return values


def test_kernel_shap_gives_shapley_values(target, images, patches):
    """600 draws of the 14 coalitions of four cells: the sampled kernel is near the exact one."""
    ours = quadrants(make_baseline("kernel_shap", target, patches).attribute(images, CLASSES))
    for row, image, label in zip(ours, images, CLASSES.tolist(), strict=True):
        expected = shapley(target, image, label)
        assert row.tolist() == pytest.approx(expected, abs=0.02)
        assert max(abs(one) for one in expected) > 0.05
        full, none = value(target, image, (0, 1, 2, 3), label), value(target, image, (), label)
        assert row.sum().item() == pytest.approx(full - none, abs=1e-5)  # efficiency holds exactly


def test_kernel_shap_with_the_exact_kernel_is_exact(target, images):
    """Every coalition, repeated as often as the kernel says: sizes 1, 2, 3 have shares 4 : 3 : 4, over 4, 6, 4 sets."""
    subsets = [kept for size in (1, 2, 3) for kept in itertools.combinations(range(4), size)]
    rows = [kept for kept in subsets for _ in range({1: 2, 2: 1, 3: 2}[len(kept)])]
    z = torch.tensor([[float(cell in kept) for cell in range(4)] for kept in rows], dtype=torch.float64)
    scores = torch.tensor([value(target, images[0], kept, 1) for kept in rows], dtype=torch.float64)
    none, full = (torch.tensor(value(target, images[0], kept, 1), dtype=torch.float64) for kept in ((), range(4)))
    fitted = shapley_fit(z, scores, none, full)
    assert fitted.tolist() == pytest.approx(shapley(target, images[0], 1), abs=1e-5)


def test_lime_agrees_with_scikit_learn():
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    z = (torch.rand((50, 9), generator=generator) < 0.5).double()
    scores = torch.rand(50, generator=generator, dtype=torch.float64)
    distance = 1 - (z.sum(dim=1) / 9).sqrt()  # cosine distance of z and ones
    weights = torch.exp(-(distance**2) / 0.25**2).sqrt()
    ridge = Ridge(alpha=1.0, fit_intercept=True).fit(z.numpy(), scores.numpy(), sample_weight=weights.numpy())
    torch.testing.assert_close(lime_fit(z, scores), torch.tensor(ridge.coef_), atol=1e-8, rtol=0)


def test_lime_ranks_the_quadrants(target, images, patches):
    ours = quadrants(make_baseline("lime", target, patches).attribute(images, CLASSES))
    assert int(ours[0].argmin()) == 1 and int(ours[1].argmax()) == 1  # -2 b for one class, + 2 b for the other
    assert int(ours[0].argmax()) in (2, 3)


def test_occlusion_is_the_mean_drop_of_the_windows(target, images, patches):
    maps = make_baseline("occlusion", target, patches).attribute(images, CLASSES)
    total, count = torch.zeros(8, 8), torch.zeros(8, 8)
    full = target.probabilities(images[:1])[0, 1]
    for top in (0, 2, 4):
        for left in (0, 2, 4):
            occluded = images[:1].clone()
            occluded[:, :, top : top + 4, left : left + 4] = 0
            total[top : top + 4, left : left + 4] += full - target.probabilities(occluded)[0, 1]
            count[top : top + 4, left : left + 4] += 1
    torch.testing.assert_close(maps[0, 0], total / count, atol=1e-6, rtol=0)


def test_greedy_order_by_brute_force(target, images, patches):
    ours = quadrants(make_baseline("greedy", target, patches).attribute(images, CLASSES))
    for row, image, label in zip(ours, images, CLASSES.tolist(), strict=True):
        taken: list[int] = []
        while len(taken) < 4:
            left = [cell for cell in range(4) if cell not in taken]

            def gain(cell: int, taken=tuple(taken), image=image, label=label) -> float:
                kept = (*taken, cell)
                rest = tuple(one for one in range(4) if one not in kept)
                return value(target, image, kept, label) - value(target, image, rest, label)

            taken.append(max(left, key=gain))
        assert row.argsort(descending=True).tolist() == taken
        assert sorted(row.tolist()) == [1, 2, 3, 4]


def test_extremal_masks_keep_what_the_class_needs(patches):
    class Corner(Quadrants):
        """Class 1 is the light of the upper left quadrant."""

        def forward(self, x: Tensor) -> Tensor:
            logit = 4 * x[..., :14, :14].mean(dim=(1, 2, 3)) - 1.6
            return torch.stack([-logit, logit], dim=1)

    images = torch.full((1, 3, 28, 28), 0.8)
    target = Target("corner", Corner(), 28, ["a", "b"])
    maps = make_baseline("extremal", target, replace(patches, patch_grid=4)).attribute(images, torch.tensor([1]))
    inside = maps[..., :13, :13].mean()
    outside = maps[..., 15:, 15:].mean()
    assert inside > 2 * outside and maps.min() >= 0 and maps.max() <= 1
