"""Every family of timm classifiers: read, trained on, explained, refined, compared."""

from dataclasses import replace

import pytest
import timm
import torch

from aha_core.attribution import Explainer
from aha_core.baselines import BASELINES, BaselineSettings, make_baseline, refusal
from aha_core.config import parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_synthetic
from aha_core.explainer.storage import Training, save_explainer
from aha_core.fastshap import fastshap_loss
from aha_core.files import atomic_json
from aha_core.runtime import LocalRuntime
from aha_core.targets import Target, create_model
from aha_core.training import train
from tests.conftest import small_params
from tests.unit.classifiers.families import CLASSES, FAMILIES, make_family

ATTENTION = {"rollout", "chefer", "legrad"}
WITH_ATTENTION = {case for case, (name, _, _) in FAMILIES.items() if name.startswith(("vit", "deit", "beit"))}


SETTINGS = BaselineSettings(
    seed=0,
    ig_steps=2,
    rise_masks=8,
    patch_grid=3,
    mask_steps=2,
    batch_size=8,
    reference=torch.zeros_like,
    fastshap=None,
)


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def target(case) -> Target:
    return make_family(case)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Prepared images by size, made on demand."""
    made: dict[int, PreparedImages] = {}

    def of(size: int) -> tuple[PreparedImages, dict]:
        raw = small_params()
        raw["data"] |= {"image_size": size, "synthetic": {"train": 8, "val": 1, "test": 1}}
        raw["train"] |= {"steps": 1, "batch_size": 2, "report_every": 1, "checkpoint_every": 1, "precision": "bf16"}
        raw["refine"] |= {"steps": 1, "fractions": 1}
        if size not in made:
            folder = tmp_path_factory.mktemp("data")
            prepare_synthetic(parse_params(raw).data, 0, folder)
            made[size] = PreparedImages(folder, "train", "none")
        return made[size], raw

    return of


def test_features_are_the_models_own(target):
    x = torch.rand(2, 3, target.image_size, target.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = target.features(x, (0.0, 1.0, 0.6, 1.0))
        assert torch.allclose(features.logits, target(x), atol=1e-4)
        assert target.features(x, ()).levels == ()
        assert torch.equal(target.features(x, ()).logits, target(x))
    assert [level.ndim for level in features.levels] == [4] * 4
    assert torch.equal(features.levels[1], features.levels[3])
    rows = target.class_rows(torch.tensor([0, CLASSES - 1]), torch.zeros(2, CLASSES), 0.0)
    assert rows.shape == (2, features.final.shape[1]), "the logit lens needs vectors as long as the rows"
    assert torch.allclose(rows.square().mean(dim=1), torch.ones(2), atol=1e-4)


def test_one_step_one_map_one_refinement_and_every_applicable_baseline(case, target, datasets, tmp_path):
    dataset, raw = datasets(target.image_size)
    params = parse_params(raw)
    state = train(params, target, dataset, list(range(CLASSES)), LocalRuntime(torch.device("cpu")))
    assert state.step == 1
    silent = [name for name, value in state.explainer.named_parameters() if value.grad is None]
    assert silent == []
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    explainer = Explainer(target, state.average, training, params.refine)
    x = dataset.batch([0])[0].float() / 255
    maps = explainer.attribute(x)
    assert maps.shape == (1, 1, *x.shape[2:])
    assert maps.isfinite().all() and maps.std() > 0
    refined = explainer.attribute(x, steps=1)
    assert refined.isfinite().all() and not torch.equal(refined, maps)

    learned = train(
        params, target, dataset, list(range(CLASSES)), LocalRuntime(torch.device("cpu")), loss=fastshap_loss
    )
    save_explainer(tmp_path, learned.average, training)
    atomic_json(tmp_path / "fastshap.json", {"grid": params.fastshap.grid})
    settings = replace(SETTINGS, fastshap=tmp_path)
    applicable = {name for name in BASELINES if refusal(name, target, settings) is None}
    assert applicable == set(BASELINES) - (set() if case in WITH_ATTENTION else ATTENTION)
    for name in sorted(applicable):
        other = make_baseline(name, target, settings).attribute(x)
        assert other.shape == maps.shape and other.isfinite().all(), name
        assert other.std() > 0, f"{name} sees nothing in {case}"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "twins_svt_small",
            {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1)},
        ),  # tokens
        ("cait_xxs24_224", {"depth": 2}),  # the class token joins after the blocks
    ],
)
def test_grad_cam_finds_the_grid_of_tokens_without_prefix(name, settings):
    torch.manual_seed(0)
    target = Target(name, timm.create_model(name, img_size=64, num_classes=3, **settings), 64, list("abc"))
    assert BASELINES["grad_cam"].applies_to(target) is None
    maps = make_baseline("grad_cam", target, SETTINGS).attribute(torch.rand(1, 3, 64, 64))
    assert maps.shape == (1, 1, 64, 64) and maps.isfinite().all()


def test_baselines_that_find_nothing_to_read_say_so():
    volo = Target("volo_d1_224", create_model("volo_d1_224", 3, 64), 64, list("abc"))
    assert "reads class tokens" in str(BASELINES["grad_cam"].applies_to(volo))
    coat = Target("coat_tiny", create_model("coat_tiny", 3, 32), 32, list("abc"))
    assert "several token grids" in str(BASELINES["grad_cam"].applies_to(coat))
    xcit = Target("xcit_nano_12_p16_224", create_model("xcit_nano_12_p16_224", 3, 64), 64, list("abc"))
    assert "global attention" in str(BASELINES["rollout"].applies_to(xcit))
