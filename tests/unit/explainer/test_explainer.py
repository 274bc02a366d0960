"""The network, its storage, the public API and refinement, on small random targets."""

import pytest
import torch
from torch import nn

from aha_core.attribution import Explainer
from aha_core.config import parse_params
from aha_core.errors import AttributionError
from aha_core.explainer import build_explainer
from aha_core.explainer.decoder import UpBlock
from aha_core.explainer.model import explain, logit_lens
from aha_core.explainer.storage import WEIGHTS, Training, save_explainer
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator, removal_masks
from aha_core.perturbation import upsample_masks
from aha_core.ranking import make_relaxation
from aha_core.refinement import Refinement, refine
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


def test_a_block_that_applies_the_head_gives_the_head_of_its_result():
    torch.manual_seed(0)
    block, head = UpBlock(6, 3, 4), nn.Conv2d(4, 2, 1)
    x, image = torch.rand(2, 6, 4, 4), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(block(x, image, head), head(block(x, image)))


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
    (tmp_path / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(AttributionError, match=r"safetensors is missing or unreadable .*; run `aha train` again"):
        Explainer.load(tmp_path, target)
    with pytest.raises(AttributionError, match="run `aha train`"):
        Explainer.load(tmp_path / "none", target)


class BrightCorner(Target):
    """A target whose class 1 is the brightness of the upper left quarter: the best map is known."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, x):
        bright = x[..., : SIZE // 2, : SIZE // 2].mean(dim=(1, 2, 3))
        return torch.stack([1 - bright, bright], dim=1).clamp_min(1e-9).log()


def run_refine(x, start, steps, patience=0, passes=None, **settings) -> Refinement:
    config = PARAMS.refine.model_copy(
        update={"steps": steps, "patience": patience, "references": ("black",), "fractions": 2, **settings}
    )
    classes = torch.ones(len(x), dtype=torch.long)
    passes = passes or MaskedPasses(BrightCorner(), "fp32", 1.0)
    return refine(passes, x, start, classes, config, PARAMS.ranking, PARAMS.perturbation, seed=0)


@pytest.mark.parametrize("optimiser", ["normalised", "adam"])
def test_refinement_finds_what_the_score_depends_on(optimiser):
    x = torch.ones(2, 3, SIZE, SIZE)
    start = torch.randn(2, 1, SIZE, SIZE, generator=generator(3))
    result = run_refine(x, start, steps=8, optimiser=optimiser)
    assert result.maps.shape == (9, 2, 1, SIZE, SIZE)
    assert (result.objective[-1] < result.objective[0]).all()
    last = result.maps[-1]
    assert last[..., :16, :16].mean() > last[..., 16:, 16:].mean() + 1


@pytest.mark.parametrize("optimiser", ["normalised", "adam"])
def test_refinement_of_an_image_does_not_depend_on_its_batch_and_zero_steps_change_nothing(optimiser):
    x = torch.rand(3, 3, SIZE, SIZE, generator=generator(4))
    start = torch.randn(3, 1, SIZE, SIZE, generator=generator(3))
    together = run_refine(x, start, steps=2, optimiser=optimiser).maps[-1]
    alone = run_refine(x[1:2], start[1:2], steps=2, optimiser=optimiser).maps[-1]
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert run_refine(x, start, steps=0).maps.shape[0] == 1


class BrightCornerWithFeatures(BrightCorner):
    """The same score beside features that an explainer can read."""

    def __init__(self):
        torch.manual_seed(0)
        Target.__init__(self, "vit_convstem_mini", create_model("vit_convstem_mini", 2, SIZE), SIZE, ["dark", "bright"])


def test_refinement_of_the_decoder_lowers_the_loss_with_weights_of_each_image():
    explainer, x = make_explainer(BrightCornerWithFeatures()), images()
    settings = {"change": "decoder", "lr": 3e-3, "hybrid": False, "references": ("black",), "fractions": 2}
    explainer.refinement = explainer.refinement.model_copy(update=settings)
    before = [weight.clone() for weight in explainer.network.parameters()]
    start = explainer.attribute(x, 1)
    result = explainer.refine(x, start, 1, steps=6)
    torch.testing.assert_close(result.maps[0], start, atol=1e-5, rtol=0)
    assert (result.objective[-1] < result.objective[0]).all()
    assert all(torch.equal(one, other) for one, other in zip(before, explainer.network.parameters(), strict=True))
    alone = explainer.refine(x[1:2], start[1:2], 1, steps=6)
    torch.testing.assert_close(alone.maps[:, 0], result.maps[:, 1], atol=1e-2, rtol=0)
    cells = explainer.refinement.model_copy(update={"change": "map", "lr": 0.3})
    explainer.refinement = cells
    moved = explainer.refine(x, start, 1, steps=6)
    torch.testing.assert_close(moved.objective[0], result.objective[0])  # both changes are 0 at first
    assert not torch.allclose(moved.maps[-1], result.maps[-1], atol=0.1)


def stopping_images():
    """Images and maps of which some stop within twelve steps: a score that is always 0, maps that are right already."""
    x = torch.rand(6, 3, SIZE, SIZE, generator=generator(4))
    start = torch.randn(6, 1, SIZE, SIZE, generator=generator(3))
    x[1, :, : SIZE // 2, : SIZE // 2] = 0
    start[3:5] *= torch.tensor([0.02, 0.3]).view(2, 1, 1, 1)
    start[3:5, :, : SIZE // 2, : SIZE // 2] += 1
    return x, start


def middle_objective(x, maps):
    """AUC_del + 1 - AUC_lif of BrightCorner at the fractions 1/4 and 3/4, from the mask and target functions."""
    relaxation = make_relaxation(PARAMS.ranking.model_copy(update={"standardise": True}), PARAMS.refine.tau, 64)
    masks = removal_masks(maps, relaxation, 8, torch.tensor([0.25, 0.75, 0.25, 0.75]), standardised=True)
    kept = x[None] * (1 - upsample_masks(masks, 8, (SIZE, SIZE)))
    deletion, lif = kept[..., : SIZE // 2, : SIZE // 2].mean(dim=(2, 3, 4)).unflatten(0, (2, 2)).mean(dim=1)
    return deletion + 1 - lif


def test_an_image_stops_where_its_score_at_fixed_fractions_has_not_risen():
    x, start = stopping_images()
    taken, maps = run_refine(x, start, 12, patience=2).taken, run_refine(x, start, 12).maps
    measured = torch.stack([middle_objective(x, maps[step]) for step in range(0, 12, 2)])
    for image, own in enumerate(measured.T):
        stops = [2 * place for place in range(1, 6) if own[place] >= own[place - 1] - 1e-5]
        assert taken[image] == (stops or [12])[0]
    assert run_refine(x, start, 12, patience=12).taken.tolist() == [12] * 6


def test_an_image_that_has_stopped_keeps_its_map_and_costs_no_more_passes():
    x, start = stopping_images()
    passes = MaskedPasses(BrightCorner(), "fp32", 1.0)
    result, all_steps = run_refine(x, start, 12, patience=2, passes=passes), run_refine(x, start, 12)
    taken = result.taken.tolist()
    assert min(taken) < max(taken)
    checks = sum(min(steps // 2 + 1, 6) for steps in taken)  # at 0, 2, …, 10 as long as the image goes on
    assert passes.images == 2 * 2 * (sum(taken) + checks) + len(taken)  # the hybrid start of each image
    assert all_steps.taken.tolist() == [12] * 6
    assert result.maps.shape == all_steps.maps.shape and result.objective.shape == (12, 6)
    for image, steps in enumerate(taken):
        own, whole = result.maps[:, image], all_steps.maps[:, image]
        torch.testing.assert_close(own[: steps + 1], whole[: steps + 1], atol=1e-4, rtol=0)  # Adam's state stays right
        assert all(torch.equal(later, own[steps]) for later in own[steps:])
        assert result.objective[:steps, image].isfinite().all() and result.objective[steps:, image].isnan().all()
    assert not torch.allclose(result.maps[-1, 3], all_steps.maps[-1, 3], atol=1e-2)


def test_an_image_stops_at_the_same_step_alone_and_in_a_batch():
    x, start = stopping_images()
    together = run_refine(x, start, 12, patience=2)
    for image in range(len(x)):
        alone = run_refine(x[image : image + 1], start[image : image + 1], 12, patience=2)
        assert alone.taken == together.taken[image]
        torch.testing.assert_close(alone.maps[:, 0], together.maps[:, image], atol=1e-4, rtol=0)


def test_the_explainer_stops_as_its_settings_say():
    explainer, x = make_explainer(make_target()), images()
    explainer.refinement = explainer.refinement.model_copy(update={"patience": 1})
    result = explainer.refine(x, explainer.attribute(x, 3), 3, steps=6)
    assert result.taken.min() < 6 and result.maps.shape[0] == 7
    torch.testing.assert_close(explainer.attribute(x, 3, steps=6), result.maps[-1])


@pytest.mark.parametrize("sizes", [{"width": 8}, {"width": 12, "refine_scales": 0}, {"refine_scales": 0}])
def test_any_size_that_the_parameters_allow_gives_maps_and_uses_all_its_weights(sizes):
    target = make_target()
    config = parse_params(small_params()).explainer.model_copy(update=sizes)
    network = build_explainer(config, target)
    maps = explain(network, target, images(), target.features(images(), config.levels), torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 1, SIZE, SIZE)
    maps.square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())  # as DistributedDataParallel asks
