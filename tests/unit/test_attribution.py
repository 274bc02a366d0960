"""The public API as captum, quantus and a user's own model meet it."""

import copy
import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from captum.metrics import infidelity, sensitivity_max

from aha_core import perturbation
from aha_core.attribution import Explainer
from aha_core.budget import passes_of, within
from aha_core.cost import measured
from aha_core.errors import AttributionError, TargetError
from aha_core.figures import overlay, show
from aha_core.ranking import standardise
from aha_core.refinement import DEFAULT_REFINEMENT
from aha_core.sources import wrap_model
from aha_core.targets import create_model
from tests.unit.explainer.test_explainer import SIZE, images, make_explainer, make_target

CLASSES = torch.tensor([3, 1, 4])


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return make_explainer(make_target())


def normalised(explainer: Explainer, x: torch.Tensor) -> torch.Tensor:
    return (x - explainer.target.mean) / explainer.target.std


class TestConventions:
    def test_importing_the_package_stays_light(self):
        code = "import sys, aha_core; assert not {'torch', 'numpy', 'timm'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_names_of_the_package(self):
        import aha_core

        assert {"Explainer", "overlay", "show"} <= set(dir(aha_core))
        assert aha_core.Explainer is Explainer
        with pytest.raises(AttributeError, match="no attribute 'Explaner'"):
            _ = aha_core.Explaner

    def test_targets_of_every_form_agree(self, explainer):
        x = images()
        whole = explainer.attribute(x, CLASSES)
        assert torch.equal(explainer.attribute(x, CLASSES.tolist()), whole)
        for form in (3, torch.tensor(3), torch.tensor([3]), [3]):
            torch.testing.assert_close(explainer.attribute(x, form)[0], whole[0], atol=1e-3, rtol=0)

    def test_result_has_the_inputs_type_and_form(self, explainer):
        x = images()
        expected = explainer.attribute(x)
        for kind in (torch.float64, torch.float16):
            maps = explainer.attribute(x.to(kind))
            assert maps.dtype == kind
            assert torch.allclose(maps.float(), expected, atol=2e-2)
        (maps,) = explainer.attribute((x,))
        assert torch.equal(maps, expected)
        wide = explainer.attribute(x, channels=3)
        assert torch.equal(wide, expected.expand(-1, 3, -1, -1))
        with_gradient = x.clone().requires_grad_()
        assert not explainer.attribute(with_gradient).requires_grad

    def test_normalised_inputs_by_an_explicit_argument(self, explainer):
        x = images()
        same = explainer.attribute(normalised(explainer, x), normalised=True)
        torch.testing.assert_close(same, explainer.attribute(x), atol=1e-3, rtol=0)
        with pytest.raises(AttributionError, match=r"from .* to 25.*divide 8-bit images by 255.*normalised=True"):
            explainer.attribute(x * 255)

    def test_batch_cap_and_progress(self, explainer, capsys):
        x = images()
        capped = explainer.attribute(x, CLASSES, internal_batch_size=2, show_progress=True)
        torch.testing.assert_close(capped, explainer.attribute(x, CLASSES), atol=1e-3, rtol=0)
        assert "attribute" in capsys.readouterr().out
        with pytest.raises(AttributionError, match="internal_batch_size must be at least 1, got 0"):
            explainer.attribute(x, internal_batch_size=0)

    def test_no_classes_too_many(self, explainer):
        with pytest.raises(AttributionError, match="2 classes for 3 images"):
            explainer.attribute(images(), [1, 2])

    def test_only_classes_that_are_not_predicted_know_their_competitors(self, explainer):
        x = images()
        features = explainer.features(x)
        predicted, last = features.logits.argmax(dim=1), features.logits.argmin(dim=1)
        both = explainer.maps(x, features, torch.stack([predicted, last]))
        own = explainer.maps(x, features, torch.stack([predicted, last]), contrast=0.0)
        assert torch.equal(both[0], own[0])
        assert not torch.allclose(both[1], own[1], atol=1e-2)
        torch.testing.assert_close(explainer.attribute(x, last), both[1], atol=1e-3, rtol=0)

    def test_contrast_is_the_difference_of_standardised_maps(self, explainer):
        x = images()
        features = explainer.features(x)
        one, other = explainer.maps(x, features, torch.stack([CLASSES, torch.full((3,), 2)]), contrast=0.0)
        contrast = explainer.contrast(x, CLASSES, 2)
        torch.testing.assert_close(contrast, standardise(one) - standardise(other), atol=1e-3, rtol=0)
        torch.testing.assert_close(explainer.contrast(x, 2, CLASSES), -contrast, atol=1e-3, rtol=0)
        assert explainer.contrast(x, 2, 2).abs().max() < 1e-5

    def test_refine_continues_from_any_map(self, explainer):
        x = images()
        start = explainer.attribute(x, CLASSES)
        result = explainer.refine(x, start, CLASSES, steps=1)
        assert result.maps.shape == (2, 3, 1, SIZE, SIZE)
        torch.testing.assert_close(result.maps[-1], explainer.attribute(x, CLASSES, steps=1))
        with pytest.raises(AttributionError, match=r"maps of shape \(3, 1, 8, 8\); expected \(3, 1, "):
            explainer.refine(x, start[..., :8, :8], CLASSES, steps=0)
        same = explainer.refine(normalised(explainer, x), start, 3, steps=1, normalised=True)
        torch.testing.assert_close(same.maps[-1][0], result.maps[-1][0], atol=1e-3, rtol=0)


class TestPasses:
    SETTINGS = (
        {}, {"fractions": 1, "references": ("mean",)}, {"hybrid": False}, {"patience": 2},
        {"change": "decoder", "lr": 1e-3},
    )  # fmt: skip

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_the_formula_is_what_the_target_sees(self, explainer, settings):
        config = DEFAULT_REFINEMENT.model_copy(update=settings)
        own = Explainer(explainer.target, explainer.network, explainer.training, config)
        own.refine(images(), own.attribute(images()), CLASSES, 1)  # finds the size of its micro-batches
        for steps, hybrid in ((0, False), (0, True), (1, False), (3, False)):
            with measured(explainer.target) as cost:
                own.attribute(images(), CLASSES, steps, hybrid=hybrid)
            if config.patience and steps > 1:  # an image may stop: then it takes less
                assert cost.passes <= len(CLASSES) * passes_of(config, steps, hybrid)
            else:
                assert cost.passes == len(CLASSES) * passes_of(config, steps, hybrid)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_no_better_map_fits_into_the_budget(self, settings):
        config = DEFAULT_REFINEMENT.model_copy(update=settings)
        for budget in (1, 3, 4, 9, 57, 58, 364, 544, 10**9):
            steps, hybrid = within(config, budget)
            assert passes_of(config, steps, hybrid) <= budget < passes_of(config, steps + 1)
            assert hybrid == (steps == 0 and budget >= 4)

    def test_a_budget_is_a_map(self, explainer):
        x = images()
        steps, hybrid = within(explainer.refinement, 544)
        assert explainer.within(544) == {"steps": steps, "hybrid": hybrid} and steps > 1
        torch.testing.assert_close(explainer.attribute(x, **explainer.within(4)), explainer.attribute(x, hybrid=True))
        with pytest.raises(AttributionError, match="passes = 0: a map takes 1 pass"):
            explainer.within(0)


class TestOtherLibraries:
    def test_without_gradients_refinement_is_refused_and_later_ones_work(self, explainer):
        x, upsampled = images(), perturbation.upsampling
        upsampled.cache_clear()
        with torch.inference_mode():
            maps = explainer.attribute(x, CLASSES)
            with pytest.raises(AttributionError, match="leave torch.inference_mode"):
                explainer.refine(x, maps, CLASSES, 1)
            assert not upsampled(4, SIZE).is_inference()  # it is kept for passes with gradients
        assert explainer.attribute(x, CLASSES, steps=1).shape == maps.shape
        with pytest.raises(AttributionError, match="steps = -1: give 0"):
            explainer.attribute(x, CLASSES, steps=-1)

    def test_captums_infidelity(self, explainer):
        x = normalised(explainer, images())
        attributions = explainer.attribute(x, CLASSES, normalised=True, channels=3)

        def perturb(inputs):
            noise = 0.02 * torch.ones_like(inputs)
            return noise, inputs - noise

        value = infidelity(explainer.target.model, perturb, x, attributions, target=CLASSES, normalize=True)
        assert value.shape == (3,)
        assert value.isfinite().all()

    @pytest.mark.parametrize("target", [3, CLASSES])
    def test_captums_sensitivity(self, explainer, target):
        torch.manual_seed(0)
        value = sensitivity_max(
            explainer.attribute, normalised(explainer, images()), n_perturb_samples=2, target=target, normalised=True
        )
        assert value.shape == (3,)
        assert (value > 0).all()

    @pytest.mark.filterwarnings("ignore")
    def test_quantus_metrics(self, explainer):
        import quantus

        x = normalised(explainer, images()).numpy()
        model, classes = explainer.target.model, CLASSES.numpy()
        maps = explainer.attribute(torch.from_numpy(x), CLASSES, normalised=True).numpy()
        quiet = {"disable_warnings": True, "display_progressbar": False}
        flipping = quantus.PixelFlipping(features_in_step=256, perturb_baseline="mean", **quiet)
        assert np.isfinite(flipping(model=model, x_batch=x, y_batch=classes, a_batch=maps)).all()
        steady = quantus.MaxSensitivity(nr_samples=2, **quiet)
        assert np.isfinite(steady(model=model, x_batch=x, y_batch=classes, explain_func=explainer.explain_func)).all()
        randomised = quantus.MPRT(similarity_func=quantus.correlation_pearson, return_average_correlation=True, **quiet)
        scores = randomised(model=model, x_batch=x, y_batch=classes, explain_func=explainer.explain_func)
        assert np.mean(scores) < 0.95  # maps of a randomised model are other maps


class TestOwnModel:
    def test_the_model_is_followed_and_left_alone(self, explainer):
        torch.manual_seed(0)
        model = create_model("vit_convstem_mini", 10, SIZE).train()
        own = Explainer.for_model(model, explainer)
        assert own.target.class_names == explainer.target.class_names
        x = images()
        torch.testing.assert_close(own.attribute(x, 3), explainer.attribute(x, 3))
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
        with torch.no_grad():
            model.head.weight.mul_(-1)
        assert not torch.allclose(own.attribute(x, 3), explainer.attribute(x, 3), atol=1e-2)

    def test_own_normalisation_and_names(self, explainer):
        model = create_model("vit_convstem_mini", 10, SIZE)
        names = [f"n{i}" for i in range(10)]
        own = Explainer.for_model(model, explainer, mean=(0.1, 0.2, 0.3), std=(1, 1, 2), class_names=names)
        assert own.target.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
        assert own.target.class_names == names

    def test_quantus_copies_keep_it(self, explainer):
        model = create_model("vit_convstem_mini", 10, SIZE)
        own = Explainer.for_model(model, explainer, mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
        x, classes = normalised(own, images()).numpy(), CLASSES.numpy()
        expected = own.explain_func(model, x, classes)
        np.testing.assert_allclose(own.explain_func(copy.deepcopy(model), x, classes), expected, atol=1e-4)

    def test_what_does_not_fit_is_named(self, explainer, tmp_path):
        with pytest.raises(AttributionError, match="trained for vit_convstem_mini, not for resnet18"):
            Explainer.for_model(create_model("resnet18", 10, SIZE), explainer)
        with pytest.raises(TargetError, match="Sequential is no timm model"):
            Explainer.for_model(torch.nn.Sequential(), explainer)
        explainer.save(tmp_path)
        with pytest.raises(AttributionError, match="trained for vit_convstem_mini, not for resnet18"):
            Explainer.for_model(create_model("resnet18", 10, SIZE), tmp_path)


class TestSources:
    def test_saved_folder_part_of_it_and_name(self, explainer, tmp_path, monkeypatch):
        expected = explainer.attribute(images())
        explainer.save(tmp_path / "mine")
        for source in (tmp_path / "mine", str(tmp_path / "mine" / "explainer")):
            assert torch.equal(Explainer.load(source).attribute(images()), expected)
        monkeypatch.setenv("AHA_EXPLAINERS", str(tmp_path))
        assert torch.equal(Explainer.load("mine").attribute(images()), expected)
        with pytest.raises(AttributionError, match=r"one of those in \$AHA_EXPLAINERS: mine"):
            Explainer.load("yours")
        own = Explainer.for_model(explainer.target.model, "mine")
        assert own.target.class_names == explainer.target.class_names
        torch.testing.assert_close(own.attribute(images()), expected)

    def test_what_the_name_does_not_tell_is_saved_or_refused(self, explainer, tmp_path):
        model = create_model("vit_convstem_mini", explainer.target.num_classes, SIZE)
        shifted = Explainer.for_model(model, explainer, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        shifted.save(tmp_path / "shifted")
        x = images()
        torch.testing.assert_close(Explainer.load(tmp_path / "shifted").target(x), shifted.target(x))
        pooled = timm.create_model("test_vit", img_size=SIZE, num_classes=3, global_pool="avg", fc_norm=False)
        own = make_explainer(wrap_model(pooled))
        with pytest.raises(TargetError, match="test_vit was built with arguments .* name and weights do not tell"):
            own.save(tmp_path / "pooled")
        assert not (tmp_path / "pooled").exists()

    def test_explainer_without_target(self, explainer, tmp_path):
        explainer.save(tmp_path)
        (tmp_path / "target/target.json").unlink()
        with pytest.raises(AttributionError, match="no target beside the explainer"):
            Explainer.load(tmp_path)


def test_plots(explainer):
    x = images()
    figure = show(x, explainer.attribute(x), titles=["a", "b", "c"])
    assert len(figure.axes) == 6
    show(x, explainer.contrast(x, 1, 2), contrast=True)
    with pytest.raises(ValueError, match="3 images, 3 maps, 2 titles"):
        show(x, explainer.attribute(x), titles=["a", "b"])
    assert callable(overlay)


@pytest.mark.parametrize("name", ["aha_core.attribution", "aha_core.figures.show"])
def test_documentation_examples(name, explainer):
    x = images(2)
    names = {
        "explainer": explainer, "images": x, "normalised": normalised(explainer, x), "torch": torch,
        "maps": explainer.attribute(x), "show": show,
    }  # fmt: skip
    found = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert found.attempted
    assert not found.failed
