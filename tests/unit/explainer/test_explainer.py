"""The network, its storage, the public API and refinement, on small random targets."""

import pytest
import torch

from aha_core.attribution import Explainer
from aha_core.config import parse_params
from aha_core.errors import AttributionError
from aha_core.explainer import build_explainer
from aha_core.explainer.model import logit_lens
from aha_core.explainer.storage import Training, save_explainer
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.refinement import Refinement, refine, stalled
from aha_core.targets import Target, create_model
from tests.conftest import small_params

PARAMS = parse_params(small_params())
SIZE = 32


def make_target(name: str = "vit_convstem_mini", seed: int = 0) -> Target:
    torch.manual_seed(seed)
    return Target(name, create_model(name, 10, SIZE), SIZE, [f"c{i}" for i in range(10)])


def make_explainer(target: Target) -> Explainer:
    torch.manual_seed(1)
    network = build_explainer(PARAMS.explainer, target)
    with torch.no_grad():  # leave the zero initialisation of FiLM
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    training = Training(target.name, PARAMS.seed, PARAMS.explainer, PARAMS.ranking, PARAMS.perturbation)
    return Explainer(target, network, training, PARAMS.refine)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=generator(5))


@pytest.mark.parametrize("name", ["vit_convstem_mini", "resnet18", "mobilenetv2_100", "swin_tiny_patch4_window7_224"])
def test_maps_have_the_inputs_size_and_do_not_depend_on_the_batch(name):
    if name.startswith("swin"):
        torch.manual_seed(0)
        target = Target(name, create_model(name, 10, 64), 64, [str(i) for i in range(10)])
        x = torch.rand(3, 3, 64, 64, generator=generator(5))
    else:
        target, x = make_target(name), images()
    explainer = make_explainer(target)
    before = x.clone()
    maps = explainer.attribute(x)
    assert maps.shape == (3, 1, *x.shape[-2:])
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert torch.equal(x, before)
    singles = torch.cat([explainer.attribute(one[None]) for one in x])
    assert torch.allclose(maps, singles, atol=1e-3)


def test_maps_depend_on_the_class_and_on_the_targets_weights():
    explainer = make_explainer(make_target())
    x = images(1)
    assert not torch.allclose(explainer.attribute(x, 1), explainer.attribute(x, 2), atol=1e-3)
    other = Explainer(make_target(seed=9), explainer.network, explainer.training)
    assert not torch.allclose(explainer.attribute(x, 1), other.attribute(x, 1), atol=1e-2)


def test_logit_lens_of_a_hand_made_map():
    final = torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]]])  # B=1, D=2, h=1, w=2
    lens = logit_lens(final, torch.tensor([[1.0, 1.0]]))  # products 1 and 3
    assert torch.allclose(lens, torch.tensor([[[[-1.0, 1.0]]]]), atol=1e-4)


def test_wrong_shapes_and_classes_are_named():
    explainer = make_explainer(make_target())
    with pytest.raises(AttributionError, match=r"expected images \(B, 3, 32, 32\)"):
        explainer.attribute(torch.rand(1, 3, 16, 16))
    with pytest.raises(AttributionError, match=r"outside 0\.\.9"):
        explainer.attribute(images(1), 10)


def test_saved_and_loaded_explainer_gives_the_same_maps(tmp_path):
    target = make_target()
    explainer = make_explainer(target)
    save_explainer(tmp_path, explainer.network, explainer.training)
    loaded = Explainer.load(tmp_path, target)
    assert loaded.training == explainer.training
    assert torch.equal(loaded.attribute(images()), explainer.attribute(images()))
    with pytest.raises(AttributionError, match="trained for vit_convstem_mini, not for resnet18"):
        Explainer.load(tmp_path, make_target("resnet18"))
    with pytest.raises(AttributionError, match="run `aha train`"):
        Explainer.load(tmp_path / "none", target)


class BrightCorner(Target):
    """A target whose class 1 is the brightness of the upper left quarter: the best map is known."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, x):
        bright = x[..., : SIZE // 2, : SIZE // 2].mean(dim=(1, 2, 3))
        return torch.stack([1 - bright, bright], dim=1).clamp_min(1e-9).log()


def run_refine(x, start, steps, patience=0, passes=None) -> Refinement:
    config = PARAMS.refine.model_copy(
        update={"steps": steps, "patience": patience, "references": ("black",), "fractions": 2}
    )
    classes = torch.ones(len(x), dtype=torch.long)
    passes = passes or MaskedPasses(BrightCorner(), "fp32", 1.0)
    return refine(passes, x, start, classes, config, PARAMS.ranking, PARAMS.perturbation, seed=0)


def test_refinement_finds_what_the_score_depends_on():
    x = torch.ones(2, 3, SIZE, SIZE)
    start = torch.randn(2, 1, SIZE, SIZE, generator=generator(3))
    result = run_refine(x, start, steps=8)
    assert result.maps.shape == (9, 2, 1, SIZE, SIZE)
    assert (result.objective[-1] < result.objective[0]).all()
    last = result.maps[-1]
    assert last[..., :16, :16].mean() > last[..., 16:, 16:].mean() + 1


def test_refinement_of_an_image_does_not_depend_on_its_batch_and_zero_steps_change_nothing():
    x = torch.rand(3, 3, SIZE, SIZE, generator=generator(4))
    start = torch.randn(3, 1, SIZE, SIZE, generator=generator(3))
    together = run_refine(x, start, steps=2).maps[-1]
    alone = run_refine(x[1:2], start[1:2], steps=2).maps[-1]
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert run_refine(x, start, steps=0).maps.shape[0] == 1


def stopping_images():
    """Images and maps of which some stop within ten steps."""
    x = torch.rand(6, 3, SIZE, SIZE, generator=generator(4))
    return x, torch.randn(6, 1, SIZE, SIZE, generator=generator(3))


def test_an_image_stops_when_the_mean_of_its_last_steps_is_not_above_that_of_the_steps_before():
    rising, noisy, level, falling = [0.9, 0.5, 0.4, 0.3], [0.5, 0.9, 0.2, 0.3], [0.5] * 4, [0.4, 0.5, 0.6, 0.7]
    objective = torch.tensor([rising, noisy, level, falling]).T
    assert stalled(objective, 2).tolist() == [False, False, True, True]
    assert stalled(objective, 1).tolist() == [False, True, True, True]
    assert stalled(torch.cat([objective[:1] - 9, objective]), 2).tolist() == [False, False, True, True]
    assert not stalled(objective[:3], 2).any()
    assert not stalled(objective, 0).any()


def test_an_image_that_has_stopped_keeps_its_map_and_costs_no_more_passes():
    x, start = stopping_images()
    passes = MaskedPasses(BrightCorner(), "fp32", 1.0)
    result, all_steps = run_refine(x, start, 10, patience=2, passes=passes), run_refine(x, start, 10)
    taken = result.taken.tolist()
    assert 4 <= min(taken) < max(taken)
    assert passes.images == 2 * 2 * sum(taken)
    assert all_steps.taken.tolist() == [10] * 6
    assert result.maps.shape == all_steps.maps.shape and result.objective.shape == (10, 6)
    for image, steps in enumerate(taken):
        own, whole = result.maps[:, image], all_steps.maps[:, image]
        torch.testing.assert_close(own[: steps + 1], whole[: steps + 1], atol=1e-4, rtol=0)  # Adam's state stays right
        assert not torch.equal(own[steps], own[steps - 1])
        assert all(torch.equal(later, own[steps]) for later in own[steps:])
        assert result.objective[:steps, image].isfinite().all() and result.objective[steps:, image].isnan().all()


def test_an_image_stops_at_the_same_step_alone_and_in_a_batch():
    x, start = stopping_images()
    together = run_refine(x, start, 10, patience=2)
    for image in range(len(x)):
        alone = run_refine(x[image : image + 1], start[image : image + 1], 10, patience=2)
        assert alone.taken == together.taken[image]
        torch.testing.assert_close(alone.maps[:, 0], together.maps[:, image], atol=1e-4, rtol=0)


def test_the_explainer_stops_as_its_settings_say():
    explainer, x = make_explainer(make_target()), images()
    explainer.refinement = explainer.refinement.model_copy(update={"patience": 1})
    result = explainer.refine(x, explainer.attribute(x, 3), 3, steps=6)
    assert result.taken.min() < 6 and result.maps.shape[0] == 7
    torch.testing.assert_close(explainer.attribute(x, 3, steps=6), result.maps[-1])
