"""The paper's explainer: its formula, its frozen backbone, its files."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import aha_core.explainer.backbone as backbone_module
from aha_core.attribution import Explainer
from aha_core.batches import Batch
from aha_core.config import parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_synthetic
from aha_core.errors import AttributionError, TargetError
from aha_core.explainer import build_explainer
from aha_core.explainer.backbone import Backbone, build_backbone
from aha_core.explainer.dpt import DptExplainer, Fusion, Reassemble, ResidualUnit, kept_channels
from aha_core.explainer.model import explain
from aha_core.explainer.storage import Training, load_explainer, save_explainer
from aha_core.export import export
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.runtime import LocalRuntime
from aha_core.targets import Target, create_model
from aha_core.training import new_state, train, training_loss
from tests.conftest import small_params

SIZE = 32
TINY_VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
BACKBONE = "test_vit"  # 6 blocks of 64 channels, patches of 16 pixels


def dpt_params(checkpoint: str, source: str = "checkpoint"):
    raw = small_params()
    raw["explainer"] = {
        "kind": "dpt", "stages": [0.2, 0.4, 0.8, 1.0], "channels": 16, "width": 16, "dropout": 0.25,
        "backbone": {"source": source, "name": BACKBONE, "checkpoint": checkpoint, "image_size": SIZE},
    }  # fmt: skip
    return parse_params(raw)


def make_target(seed: int = 0, name: str = "vit_convstem_mini") -> Target:
    torch.manual_seed(seed)
    return Target(name, create_model(name, 10, SIZE), SIZE, [f"c{i}" for i in range(10)])


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=generator(5))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tower with a classifier that belongs to other classes."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("backbone") / "tower.safetensors"
    save_file(timm.create_model(BACKBONE, img_size=SIZE, num_classes=3).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def params(checkpoint):
    return dpt_params(str(checkpoint))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(params.data, params.seed, folder)
    return PreparedImages(folder, "train", params.train.augment)


@pytest.fixture
def network(params) -> DptExplainer:
    torch.manual_seed(1)
    return build_explainer(params.explainer, make_target())


def attributor(network, target, params) -> Explainer:
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    return Explainer(target, network, training, params.refine)


def test_own_models_share_the_backbone(network, params):
    explainer = attributor(network, make_target(), params)
    own = Explainer.for_model(make_target(seed=9).model, explainer)
    assert own.network.backbone is network.backbone
    torch.testing.assert_close(own.attribute(images(), 1), explainer.attribute(images(), 1))


def test_exported_graph_takes_any_batch(network, params, tmp_path, unchecked_types):
    explainer = attributor(network, make_target(), params)
    made = export(explainer, tmp_path / "graph.pt2", "torch-export")
    maps, _ = torch.export.load(made.file).module()(images(4), torch.tensor([1, 1, 1, 1]))
    torch.testing.assert_close(maps, explainer.attribute(images(4), 1))


def test_size_of_the_papers_decoder_on_a_vit_large():
    class ViTLarge(Backbone):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.register_buffer("mean", torch.zeros(3, 1, 1))

        def forward(self, x, depths):
            return tuple(torch.zeros(1, 1024, 14, 14) for _ in depths)

    raw = small_params()
    raw["explainer"] = {
        "kind": "dpt", "stages": [0.22, 0.48, 0.74, 1.0], "channels": 256, "width": 128, "dropout": 0.1,
        "backbone": {"source": "pretrained", "name": "x", "checkpoint": "", "image_size": 224},
    }  # fmt: skip
    network = DptExplainer(parse_params(raw).explainer, 1000, ViTLarge())
    assert sum(weight.numel() for weight in network.parameters()) == 15_942_497
    maps = [part(torch.zeros(1, 1024, 14, 14), torch.zeros(1, 1024)) for part in network.reassemble]
    assert [tuple(one.shape[1:]) for one in maps] == [(128, 56, 56), (128, 28, 28), (128, 14, 14), (128, 7, 7)]
    assert network.final.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_readout_puts_the_class_embedding_beside_each_token():
    torch.manual_seed(0)
    part = Reassemble(tokens=3, embedding=2, channels=4, width=5, doublings=0)
    level, embedding = torch.randn(2, 3, 1, 2), torch.randn(2, 2)
    linear = part.readout[0]
    expected = part.out(part.project(torch.stack(
        [F.gelu(linear(torch.cat([level[:, :, 0, place], embedding], dim=1))) for place in (0, 1)], dim=2
    )[:, :, None]))  # fmt: skip
    assert torch.allclose(part(level, embedding), expected, atol=1e-6)


def test_fusion_adds_the_refined_skip_to_the_path():
    torch.manual_seed(0)
    fusion, deepest = Fusion(2, deepest=False), Fusion(2, deepest=True)
    path, skip = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    assert torch.allclose(fusion(path, skip, (4, 4)), fusion.out(fusion.unit(path + fusion.skip(skip))), atol=1e-6)
    assert torch.allclose(deepest(None, skip, (4, 4)), deepest.out(deepest.unit(skip)), atol=1e-6)
    assert fusion(path, skip, (8, 8)).shape == (1, 2, 8, 8)
    unit = ResidualUnit(2)
    torch.nn.init.zeros_(unit.second.weight)
    torch.nn.init.zeros_(unit.second.bias)
    assert torch.equal(unit(path), path)


def test_levels_of_a_backbone_are_normalised_over_channels_and_resized_for_it(checkpoint):
    config = dpt_params(str(checkpoint)).explainer.backbone
    backbone = build_backbone(config)
    small = backbone(torch.rand(2, 3, 20, 20), (0.0, 1.0))
    for level in small:
        assert level.shape == (2, 64, 2, 2)
        assert torch.allclose(level.mean(dim=1), torch.zeros(2, 2, 2), atol=1e-5)
        assert torch.allclose(level.std(dim=1, correction=0), torch.ones(2, 2, 2), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "grids"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, [16, 8, 4, 2]),
        ("vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64}, [16, 8, 4, 2]),
        (
            "vit_small_patch14_reg4_dinov2",
            {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 70},
            [20, 10, 5, 3],
        ),
    ],
)
def test_other_backbones_are_reassembled_to_the_same_strides(name, settings, grids):
    size = settings.get("img_size", 64)
    config = dpt_params("x").explainer
    config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"image_size": size})})
    network = DptExplainer(config, 10, Backbone(name, timm.create_model(name, num_classes=0, **settings), size))
    x = torch.rand(1, 3, size, size)
    levels = network.backbone(x, config.stages)
    maps = [part(one, network.classes(torch.tensor([0]))) for part, one in zip(network.reassemble, levels, strict=True)]
    assert [one.shape[-1] for one in maps] == grids
    assert network(x, levels, torch.tensor([0])).shape == (1, 1, size, size)


def test_maps_depend_on_the_class_and_not_on_the_targets_weights(network, params):
    x = images(2)
    maps = attributor(network, make_target(), params).attribute(x, 1)
    assert maps.shape == (2, 1, SIZE, SIZE) and maps.std() > 0
    assert not torch.allclose(maps, attributor(network, make_target(), params).attribute(x, 2), atol=1e-3)
    assert torch.equal(maps, attributor(network, make_target(seed=9), params).attribute(x, 1))
    assert torch.allclose(maps[1:], attributor(network, make_target(), params).attribute(x[1:], 1), atol=1e-3)


def test_targets_that_give_only_logits_are_explained(params):
    target = make_target(name="coat_tiny")
    torch.manual_seed(1)
    explainer = attributor(build_explainer(params.explainer, target), target, params)
    refined = explainer.attribute(images(1), steps=1)
    assert refined.shape == (1, 1, SIZE, SIZE) and refined.isfinite().all()


def test_refinement_of_its_decoder_moves_each_image_and_leaves_network_and_backbone(network, params):
    explainer, x = attributor(network, make_target(), params), images()
    explainer.refinement = params.refine.model_copy(update={"change": "decoder", "lr": 1e-3, "hybrid": False})
    before = [weight.clone() for weight in (*network.parameters(), *network.backbone.parameters())]
    start = explainer.attribute(x, 3)
    maps = explainer.refine(x, start, 3, steps=2).maps
    moved = (maps[1:] - maps[:1]).flatten(2).abs().amax(dim=2)
    assert bool((moved > 1e-3).all())
    after = (*network.parameters(), *network.backbone.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    torch.testing.assert_close(explainer.attribute(x, 3), start)


def test_classes_of_the_same_images_share_one_pass_of_the_backbone(network, monkeypatch):
    calls: list[int] = []
    original = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, x, depths: calls.append(1) or original(self, x, depths))
    target, x = make_target(), images(2)
    features = target.features(x, ())
    maps = [explain(network.eval(), target, x, features, torch.tensor(classes)) for classes in ([0, 1], [2, 3])]
    together = explain(network, target, x.repeat(2, 1, 1, 1), features.repeat(2), torch.tensor([0, 1, 2, 3]))
    assert len(calls) == 1
    assert torch.allclose(together, torch.cat(maps), atol=1e-5)
    explain(network, target, x, target.features(x, ()), torch.tensor([0, 1]))
    assert len(calls) == 2


def test_the_backbone_is_frozen_shared_by_copies_and_follows_to_other_types(network):
    names = [name for name, _ in network.named_parameters()] + list(network.state_dict())
    assert not any("frozen" in name or "model" in name for name in names)
    twin = copy.deepcopy(network)
    assert twin.backbone is network.backbone
    assert twin.classes.weight is not network.classes.weight
    network.train()
    assert not network.backbone.model.training
    assert not any(weight.requires_grad for weight in network.backbone.parameters())
    network.double()
    assert network.backbone.mean.dtype == torch.float64


def test_an_explainer_for_a_model_elsewhere_leaves_the_first_one_where_it_is(network, params):
    target = make_target()
    first = Explainer(target, network, Training(target.name, 0, params.explainer, params.ranking, params.perturbation))
    elsewhere = create_model("vit_convstem_mini", 10, SIZE).to("meta")  # stands for another device
    second = Explainer.for_model(elsewhere, first)
    assert second.network.backbone is not first.network.backbone
    assert second.network.backbone.mean.device.type == "meta" and first.network.backbone.mean.device.type == "cpu"
    assert first.attribute(images()).shape == (3, 1, SIZE, SIZE)


def test_dropped_channels_are_a_function_of_image_and_class():
    x, classes = images(3), torch.tensor([1, 1, 2])
    kept = kept_channels(x, classes, 400, 0.25)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.equal(kept[1:2], kept_channels(x[1:2], classes[1:2], 400, 0.25))
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept_channels(x[:1], torch.tensor([5]), 400, 0.25)[0])


def test_training_reaches_every_parameter_and_resumes_exactly(params, dataset):
    target, saved = make_target(), []
    cpu = torch.device("cpu")
    whole = train(params, target, dataset, list(range(10)), LocalRuntime(cpu, save=saved.append))
    resumed = train(params, target, dataset, list(range(10)), LocalRuntime(cpu, load=lambda: saved[0]))
    assert whole.curve == resumed.curve
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    assert whole.average.backbone is whole.explainer.backbone
    assert [name for name, value in whole.explainer.named_parameters() if value.grad is None] == []


def test_shares_of_a_batch_give_the_mean_loss_of_the_whole(params, dataset):
    pixels, labels = dataset.batch(range(4))
    target = make_target()
    state, passes = new_state(params, target, torch.device("cpu")), MaskedPasses(target, "fp32", 1.0)

    def loss(positions):
        part = slice(positions.start, positions.stop)
        batch = Batch(
            pixels[part].float() / 255, labels[part], positions, torch.zeros(len(positions), dtype=torch.bool)
        )
        return training_loss(state.explainer, passes, batch, params, step=1)[0].item()

    assert (loss(range(0, 2)) + loss(range(2, 4))) / 2 == pytest.approx(loss(range(0, 4)), rel=1e-5)


def test_a_folder_with_a_local_backbone_needs_nothing_else(network, params, tmp_path, monkeypatch):
    target = make_target()
    explainer = attributor(network, target, params)
    save_explainer(tmp_path, network, explainer.training)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "backbone.safetensors", "explainer.json", "explainer.safetensors",
    ]  # fmt: skip
    monkeypatch.setattr(backbone_module, "expand_path", None)  # the configured file is not even looked for
    loaded = Explainer.load(tmp_path, target)
    assert torch.equal(loaded.attribute(images()), explainer.attribute(images()))


def test_a_folder_names_a_pretrained_backbone_and_refuses_other_weights(tmp_path, monkeypatch):
    seed = 3

    def downloaded(name, num_classes, image_size, pretrained=False, section="target"):
        torch.manual_seed(seed)
        assert pretrained and section == "explainer.backbone"
        return timm.create_model(name, num_classes=num_classes, img_size=image_size)

    monkeypatch.setattr(backbone_module, "create_model", downloaded)
    params, target = dpt_params("", source="pretrained"), make_target()
    explainer = attributor(build_explainer(params.explainer, target), target, params)
    save_explainer(tmp_path, explainer.network, explainer.training)
    assert not (tmp_path / "backbone.safetensors").exists()
    network, training = load_explainer(tmp_path, target)
    assert training == explainer.training
    again = attributor(network, target, params)
    assert torch.equal(again.attribute(images()), explainer.attribute(images()))
    seed = 4
    with pytest.raises(AttributionError, match=r"trained on other weights of test_vit.*backbone.safetensors"):
        load_explainer(tmp_path, target)


def test_what_is_wrong_is_named(network, params, tmp_path):
    other = Target("resnet18", create_model("resnet18", 4, SIZE), SIZE, list("abcd"))
    with pytest.raises(AttributionError, match="embeddings of 10 classes, resnet18 has 4; explainer.kind: features"):
        attributor(network, other, params).attribute(images(1))
    with pytest.raises(TargetError, match=r"is trained by `aha train`.*use source: checkpoint"):
        build_explainer(dpt_params("", source="train").explainer, make_target())
    with pytest.raises(TargetError, match=r"explainer.backbone.name = 'vit_dino' is not a timm model"):
        config = params.explainer.backbone.model_copy(update={"name": "vit_dino"})
        build_backbone(config)
    save_file({"blocks.0.x": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(TargetError, match=r"odd.safetensors does not fit test_vit: .* keys missing"):
        build_backbone(dpt_params(str(tmp_path / "odd.safetensors")).explainer.backbone)
    (tmp_path / "explainer.json").write_text('{"target": "x", "seed": 0, "explainer": {"width": 3}}')
    with pytest.raises(AttributionError, match=r"another version of AHA; run `aha train` again"):
        load_explainer(tmp_path, make_target())
