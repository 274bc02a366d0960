"""The hybrid mode: against its formula, and what it leaves alone."""

import pytest
import torch
import torch.nn.functional as F

from aha_core import hybrid
from aha_core.attribution import Explainer
from aha_core.errors import AttributionError
from aha_core.hybrid import hybrid_maps
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import removal_masks
from aha_core.perturbation import reference_images, upsample_masks
from aha_core.ranking import standardise
from aha_core.ranking.soft_topk import SoftTopK
from tests.unit.explainer.test_explainer import images, make_explainer, make_target

CLASSES = torch.tensor([3, 1, 4])
GRID = 7
WEIGHT = 0.2


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    """In float32: the first step of Adam turns a gradient's rounding into whole steps."""
    made = make_explainer(make_target())
    exact = made.refinement.model_copy(update={"precision": "fp32", "grid": GRID, "hybrid_weight": WEIGHT})
    return Explainer(made.target, made.network, made.training, exact)


def corrected(explainer: Explainer, x: torch.Tensor, maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    passes = MaskedPasses(explainer.target, "fp32", 1.0)
    return hybrid_maps(passes, x, maps, classes, explainer.training.perturbation, GRID, WEIGHT)


def test_is_the_gradient_of_the_log_probability_at_a_partly_removed_image(explainer):
    x, maps = images(), torch.randn(3, 1, *images().shape[-2:])
    start = standardise(maps)
    _, mask = removal_masks(start, SoftTopK(hybrid.TAU), GRID, torch.full((2,), hybrid.REMOVED), True)
    mask.requires_grad_()
    pixels = upsample_masks(mask[None], GRID, tuple(x.shape[-2:]))[0]
    mixed = (1 - pixels) * x + pixels * reference_images(x, "blur", explainer.training.perturbation)
    chosen = explainer.target(mixed).log_softmax(dim=1)[range(3), CLASSES]
    gain = -torch.autograd.grad(chosen.sum(), mask)[0]  # of log f: the same up to a factor per image
    gain = gain / gain.square().mean(dim=1, keepdim=True).sqrt()
    change = (WEIGHT * gain.clamp(-3, 3)).unflatten(1, (1, GRID, GRID))
    expected = standardise(start + F.interpolate(change, size=x.shape[-2:], mode="bilinear"))
    torch.testing.assert_close(corrected(explainer, x, maps, CLASSES), expected, atol=2e-3, rtol=0)


def test_inputs_stay_and_an_image_does_not_depend_on_its_batch(explainer):
    x, maps = images(), torch.randn(3, 1, *images().shape[-2:])
    before = x.clone(), maps.clone()
    together = corrected(explainer, x, maps, CLASSES)
    alone = torch.cat([corrected(explainer, x[[i]], maps[[i]], CLASSES[[i]]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)
    assert torch.equal(x, before[0]) and torch.equal(maps, before[1])
    assert all(weight.grad is None for weight in explainer.target.parameters())


@pytest.mark.parametrize("scale", [1e-35, 1.0, 1e30])
def test_only_the_pattern_of_a_gradient_counts(scale):
    gradient = torch.randn(2, 49)
    torch.testing.assert_close(hybrid.relative(scale * gradient), hybrid.relative(gradient), atol=1e-4, rtol=0)


def test_no_gradient_no_change():
    assert not hybrid.relative(torch.zeros(2, 49)).any()
    spike = torch.zeros(1, 400).index_fill(1, torch.tensor([7]), 5.0)
    assert hybrid.relative(spike)[0, 7] == hybrid.LIMIT


def test_cells_have_two_pixels_a_side_or_more(explainer):
    x, maps = images(), torch.randn(3, 1, *images().shape[-2:])
    passes, perturbation = MaskedPasses(explainer.target, "fp32", 1.0), explainer.training.perturbation
    finest = hybrid_maps(passes, x, maps, CLASSES, perturbation, x.shape[-1] // 2, WEIGHT)
    assert hybrid_maps(passes, x, maps, CLASSES, perturbation, 1000, WEIGHT).equal(finest)
    assert not hybrid_maps(passes, x, maps, CLASSES, perturbation, x.shape[-1] // 4, WEIGHT).equal(finest)


class TestInTheApi:
    def test_attribute_corrects_its_own_map(self, explainer):
        x = images()
        start = explainer.attribute(x, CLASSES)
        expected = hybrid_maps(explainer.passes, x, start, CLASSES, explainer.training.perturbation, GRID, WEIGHT)
        maps = explainer.attribute(x, CLASSES, hybrid=True)
        torch.testing.assert_close(maps, expected, atol=1e-3, rtol=0)
        assert not maps.requires_grad
        assert not torch.allclose(maps, explainer.attribute(x, CLASSES), atol=1e-2)

    def test_refinement_begins_with_it(self, explainer):
        x = images()
        start = explainer.attribute(x, CLASSES)
        corrected = hybrid_maps(explainer.passes, x, start, CLASSES, explainer.training.perturbation, GRID, WEIGHT)
        maps = explainer.refine(x, start, CLASSES, 1).maps
        plain = Explainer(
            explainer.target, explainer.network, explainer.training,
            explainer.refinement.model_copy(update={"hybrid": False}),
        )  # fmt: skip
        torch.testing.assert_close(maps[0], start, atol=1e-3, rtol=0)
        torch.testing.assert_close(maps[1], plain.refine(x, corrected, CLASSES, 1).maps[1], atol=1e-3, rtol=0)
        assert not torch.allclose(maps[1], plain.refine(x, start, CLASSES, 1).maps[1], atol=1e-2)
        for asked in (False, True):  # not corrected twice
            torch.testing.assert_close(explainer.attribute(x, CLASSES, 1, hybrid=asked), maps[1], atol=1e-3, rtol=0)

    def test_steps_have_cells_of_two_pixels_or_more(self, explainer):
        x = images()

        def refined(grid: int) -> torch.Tensor:
            settings = explainer.refinement.model_copy(update={"grid": grid})
            own = Explainer(explainer.target, explainer.network, explainer.training, settings)
            return own.attribute(x, CLASSES, steps=2)

        finest = refined(x.shape[-1] // 2)
        torch.testing.assert_close(refined(1000), finest, atol=1e-3, rtol=0)
        assert not torch.allclose(refined(x.shape[-1] // 4), finest, atol=1e-2)

    def test_contrast_takes_it(self, explainer):
        x = images()
        both = torch.stack([CLASSES, torch.zeros(3, dtype=torch.long)])
        pair = explainer.maps(x, explainer.features(x), both, hybrid=True, contrast=0.0)
        torch.testing.assert_close(explainer.contrast(x, CLASSES, 0, hybrid=True), pair[0] - pair[1], atol=1e-3, rtol=0)

    def test_without_gradients_it_says_what_to_do(self, explainer):
        with torch.inference_mode():
            assert explainer.attribute(images(), CLASSES).isfinite().all()
            for wanted in ({"hybrid": True}, {"steps": 1}):
                with pytest.raises(AttributionError, match=r"leave torch.inference_mode\(\)"):
                    explainer.attribute(images(), CLASSES, **wanted)
