"""FastSHAP as a baseline: the contract of all, its values, and what happens without a network."""

import json
from dataclasses import replace

import pytest
import torch

from aha_core.baselines import make_baseline, refusal
from aha_core.config import parse_params
from aha_core.errors import AttributionError
from aha_core.explainer import build_explainer
from aha_core.explainer.storage import Training, save_explainer
from tests.conftest import small_params
from tests.unit.baselines.test_registry import check_contract


@pytest.fixture(params=["vit", "mobilenet"])
def case(request, settings, tmp_path):
    """A target and settings with a network for it, whose maps differ between classes."""
    target, params = request.getfixturevalue(request.param), parse_params(small_params())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_explainer(params.explainer, target)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
    training = Training(target.name, 0, params.explainer, params.ranking, params.perturbation)
    save_explainer(tmp_path, network, training)
    (tmp_path / "fastshap.json").write_text(json.dumps({"trained": True, "grid": 4}))
    return target, replace(settings, fastshap=tmp_path)


def test_contract(case, images):
    check_contract("fastshap", case[0], images, case[1])


def test_values_are_efficient_and_the_class_matters(case, images):
    target, settings = case
    method = make_baseline("fastshap", target, settings)
    classes = torch.tensor([0, 1, 2])
    phi = method._maps(images, classes)
    gain = (target.probabilities(images) - target.probabilities(torch.zeros_like(images))).gather(1, classes[:, None])
    assert phi.shape == (3, 1, 4, 4)
    torch.testing.assert_close(phi.sum(dim=(1, 2, 3)), gain[:, 0], atol=1e-5, rtol=0)
    assert not method.attribute(images, classes).allclose(method.attribute(images, (classes + 1) % 5))


def test_without_a_network_it_is_refused_with_the_remedy(vit, settings, tmp_path):
    for folder in (None, tmp_path):
        without = replace(settings, fastshap=folder)
        assert "run `aha fastshap`" in str(refusal("fastshap", vit, without))
        with pytest.raises(AttributionError, match="fastshap is a network of its own, which is not trained"):
            make_baseline("fastshap", vit, without)
