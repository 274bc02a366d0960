from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from aha_core.config import Params, expand_path, load_params, parse_params
from aha_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw():
    return load_params(ROOT / "params.yaml").model_dump(mode="json")


def test_embedded_profile_is_the_active_one():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "configs/embedded.yaml").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_profiles_are_valid_and_hold_no_absolute_path(file):
    assert isinstance(load_params(file), Params)
    assert ": /" not in file.read_text()


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("train", "stpes", 3, ["train.stpes", "3", "allowed here", "steps"]),
        ("ranking", "method", "quicksort", ["ranking.method", "quicksort", "gumbel_sinkhorn", "soft_topk"]),
        ("train", "lr", "fast", ["train.lr", "'fast'", "number"]),
        ("train", "steps", 0, ["train.steps", "0", "greater than or equal to 1"]),
        ("ranking", "grid_min", 99, ["grid_min 99", "grid_max"]),
        ("objective", "parts", 0.5, ["parts 0.5", "role part", "classes"]),
        ("perturbation", "blur_kernel", 36, ["odd", "36"]),
        ("objective", "smoothness_kernel", 16, ["odd", "16"]),
        ("perturbation", "blur_kernel", 999, ["999", "data.image_size"]),
        ("refine", "change", "decoder", ["refine: ", "decoder", "optimiser: adam", "1e-3"]),
    ],
)
def test_bad_values_give_one_line_with_name_value_and_remedy(raw, section, key, value, words):
    raw["refine"]["optimiser"] = "normalised"
    raw[section][key] = value
    with pytest.raises(ConfigError) as caught:
        parse_params(raw, "params.yaml")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400  # the value, not its whole section
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 224), ("vit_small_patch16_384", 384), ("vit_base_patch14_dinov2.lvd142m", 518)],
)
def test_the_input_size_is_that_of_the_targets_weights(raw, name, size):
    raw["data"]["image_size"], raw["target"]["name"] = "target", name
    assert parse_params(raw).data.image_size == size
    assert raw["data"]["image_size"] == "target"


@pytest.mark.parametrize("name", ["vit_convstem_mini", "resnet5", "resnet50.mine", "not a model"])
def test_an_unknown_input_size_is_asked_for(raw, name):
    raw["data"]["image_size"], raw["target"]["name"] = "target", name
    with pytest.raises(
        ConfigError, match=rf"data.image_size = 'target', target.name = '{name}': timm knows .*a number"
    ):
        parse_params(raw)


def test_an_input_that_is_not_square_is_refused(raw, monkeypatch):
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda name: SimpleNamespace(input_size=(3, 256, 192)))
    raw["data"]["image_size"] = "target"
    with pytest.raises(ConfigError, match="timm's is 256 x 192; write a number of pixels"):
        parse_params(raw)


def test_missing_parameters_and_several_problems_are_all_named(raw):
    del raw["train"]["clip"]
    raw["seed"] = "x"
    with pytest.raises(ConfigError, match=r"(?s)seed.*\n.*missing parameter train.clip|clip.*\n.*seed"):
        parse_params(raw)


def test_yaml_reads_exponents_as_numbers(tmp_path, raw):
    text = yaml.safe_dump(raw).replace("lr: 0.001", "lr: 1e-3")
    assert "1e-3" in text
    (tmp_path / "p.yaml").write_text(text)
    assert load_params(tmp_path / "p.yaml").train.lr == 1e-3


def test_broken_and_missing_files(tmp_path):
    with pytest.raises(ConfigError, match="aha profile"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "p.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_params(tmp_path / "p.yaml")


def test_paths_expand_variables_and_name_an_unset_one(monkeypatch):
    monkeypatch.setenv("AHA_TEST_ROOT", "/somewhere")
    assert expand_path("$AHA_TEST_ROOT/x", "data.folder.root") == Path("/somewhere/x")
    with pytest.raises(ConfigError, match=r"data.folder.root.*AHA_NOT_SET.*export AHA_NOT_SET"):
        expand_path("${AHA_NOT_SET}/x", "data.folder.root")


def test_kinds_of_explainer(raw):
    dpt = load_params(ROOT / "configs/embedded-paper.yaml")
    assert dpt.explainer.kind == "dpt" and dpt.explainer.levels == ()
    raw["explainer"]["wdith"] = 3
    with pytest.raises(ConfigError, match=r"unknown parameter explainer.wdith = 3; allowed here: depth, kind, levels"):
        parse_params(raw)
    raw["explainer"] = {"kind": "dtp"}
    with pytest.raises(ConfigError, match=r"explainer.kind = 'dtp': expected features or dpt"):
        parse_params(raw)
    raw["explainer"] = {"width": 3}
    with pytest.raises(ConfigError, match=r"missing parameter explainer.kind: expected features or dpt"):
        parse_params(raw)
    raw["explainer"] = dpt.model_dump(mode="json")["explainer"]
    raw["explainer"]["backbone"]["name_"] = "x"
    with pytest.raises(ConfigError, match=r"unknown parameter explainer.backbone.name_ = 'x'; allowed here: c"):
        parse_params(raw)
    del raw["explainer"]["backbone"]["name_"], raw["explainer"]["backbone"]["name"]
    with pytest.raises(ConfigError, match=r"missing parameter explainer.backbone.name"):
        parse_params(raw)
    raw["explainer"]["backbone"] |= {"name": "x", "image_size": 32}
    with pytest.raises(ConfigError, match=r"image_size 32 must be data.image_size 64"):
        parse_params(raw)


def test_class_embeddings_need_a_trained_tower(raw):
    raw["target"]["zero_shot"]["embeddings"] = "x.safetensors"
    with pytest.raises(ConfigError, match=r"zero_shot.embeddings needs a trained tower"):
        parse_params(raw)
