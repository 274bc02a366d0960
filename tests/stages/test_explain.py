"""`aha explain`: what it takes, what it writes, what it refuses."""

import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from aha_core.attribution import Explainer
from aha_core.errors import AhaError, AttributionError, ConfigError, TargetError
from aha_core.explainer import build_explainer
from aha_core.explainer.storage import Training, save_explainer
from aha_core.targets import Target, create_model
from stages.class_choice import ClassChoice
from stages.context import Context
from stages.explain import run
from stages.explained import Request
from stages.export import run as export
from stages.image_files import find_images, output_names
from stages.own import load_explainer


@pytest.fixture
def folder(workspace, monkeypatch, change):
    """A workspace with an untrained explainer and some photos."""
    change("resources", threads=1)
    ctx = Context.create(workspace)
    target, params = Target.load(ctx.paths.target), ctx.params
    torch.manual_seed(1)
    network = build_explainer(params.explainer, target)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    save_explainer(ctx.paths.explainer, network, training)
    draw = np.random.default_rng(0)
    (workspace / "photos/more").mkdir(parents=True)
    for name, size in {"photos/a.jpg": (50, 80, 3), "photos/b.png": (40, 40, 3), "photos/more/a.png": (33, 20)}.items():
        Image.fromarray(draw.integers(0, 255, size, dtype=np.uint8)).save(workspace / name)
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/b.png\n\nphotos/none.jpg\n"))
    return workspace


def explain(folder, *images: str, **options) -> int:
    return run(Context.create(folder), Request(list(images), folder / "x", **options))


def facts(folder, name: str) -> dict:
    return json.loads((folder / "x" / f"{name}.json").read_text())


def test_pictures_map_and_facts(folder, unchecked_types):
    assert explain(folder, "photos/a.jpg") == 0
    assert sorted(file.name for file in (folder / "x").iterdir()) == [
        "a.json", "a_cutout.webp", "a_heat.png", "a_map.npy", "a_overlay.jpg", "summary.json"
    ]  # fmt: skip
    for name, mode in {"overlay.jpg": "RGB", "heat.png": "P", "cutout.webp": "RGBA"}.items():
        with Image.open(folder / f"x/a_{name}") as picture:
            assert (picture.size, picture.mode) == ((80, 50), mode)
            if mode == "RGBA":
                assert (np.asarray(picture)[..., 3] > 0).mean() == pytest.approx(0.2, abs=0.02)
    (own,) = facts(folder, "a")["classes"]
    with Image.open(folder / "photos/a.jpg") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    x = transforms.resize(pixels, [32, 32], antialias=True)[None].float() / 255
    explainer = Explainer.load(folder / "outputs")
    probabilities = explainer.target.probabilities(x)[0]
    assert own["index"] == int(probabilities.argmax())
    assert own["class"] == explainer.target.class_names[own["index"]]
    assert own["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    raw = np.load(folder / "x/a_map.npy")
    np.testing.assert_allclose(raw, explainer.attribute(x)[0, 0].numpy(), atol=1e-4)
    assert own["srg"] == pytest.approx(own["insertion"] - own["deletion"], abs=2e-6)
    each = own["by_reference"]
    assert own["deletion"] == pytest.approx(np.mean([values["deletion"] for values in each.values()]), abs=1e-5)


def test_scores_are_those_of_the_metric_contract_whatever_the_batch(folder):
    explain(folder, "photos")
    together = facts(folder, "b")["classes"][0]
    explain(folder, "photos/b.png")
    assert facts(folder, "b")["classes"][0] == together
    explain(folder, "photos/b.png", scores=False)
    assert "deletion" not in facts(folder, "b")["classes"][0]


def test_many_images_are_scored_only_on_request(folder, monkeypatch, capsys):
    monkeypatch.setattr("stages.explain.SCORED", 1)
    explain(folder, "photos/a.jpg", "photos/b.png")
    assert "deletion" not in facts(folder, "b")["classes"][0]
    assert "--scores adds them" in capsys.readouterr().err
    explain(folder, "photos/a.jpg", "photos/b.png", scores=True)
    assert "deletion" in facts(folder, "b")["classes"][0]
    explain(folder, "photos/a.jpg")
    assert "deletion" in facts(folder, "a")["classes"][0]


def test_bench_compares_with_decoding_and_plain_passes(folder):
    from stages import bench_explain

    ctx = Context.create(folder, device="cpu")
    bench_explain.run(ctx, folder / "bench", [], count=5, rounds=1)
    found = json.loads((folder / "bench/explain.json").read_text())
    assert found["images"] == 5
    assert min(found[name] for name in ("plain", "explain", "efficiency", "map_cost")) > 0
    with pytest.raises(AhaError, match="no images in nothing"):
        bench_explain.run(ctx, folder / "bench", ["nothing*"], count=5, rounds=1)


def test_many_images_bad_ones_and_the_contact_sheet(folder, capsys):
    (folder / "photos/broken.jpg").write_bytes(b"no image")
    (folder / "photos/.hidden.png").write_bytes(b"")
    assert explain(folder, "photos", "-", "nothing*.jpg", "photos/*.png") == 3
    summary = json.loads((folder / "x/summary.json").read_text())
    results = {(one["file"], one["result"]) for one in summary["images"]}
    assert results == {("photos/a.jpg", "a.json"), ("photos/b.png", "b.json"), ("photos/more/a.png", "a_2.json")}
    reasons = {one["file"]: one["reason"] for one in summary["skipped"]}
    assert reasons.keys() == {"photos/broken.jpg", "photos/none.jpg", "nothing*.jpg"}
    assert reasons["nothing*.jpg"] == "no file matches"
    assert "not an image" in reasons["photos/broken.jpg"]
    assert "photos/broken.jpg" in capsys.readouterr().err
    with Image.open(folder / "x" / summary["contact_sheets"][0]) as sheet:
        assert sheet.width > 3 * 160
    assert not list((folder / "x").glob("*.tmp*"))


def test_top_classes_and_contrast(folder):
    assert explain(folder, "photos/b.png", class_="top3", scores=False) == 0
    own = facts(folder, "b")["classes"]
    chances = [one["probability"] for one in own]
    assert len(own) == 3
    assert chances == sorted(chances, reverse=True)
    assert own[2]["files"]["map"] == "b_map_3.npy"
    rival = own[0]["class"]  # the predicted one: the best of the others is explained
    assert explain(folder, "photos/b.png", against=rival, steps=0) == 0
    (rather,) = facts(folder, "b")["classes"]
    assert (rather["index"], rather["against"]["class"]) == (own[1]["index"], rival)
    with Image.open(folder / "photos/b.png") as image:
        x = transforms.resize(torch.from_numpy(np.array(image)).permute(2, 0, 1), [32, 32], antialias=True)[None] / 255
    expected = Explainer.load(folder / "outputs").contrast(x, own[1]["index"], own[0]["index"])
    np.testing.assert_allclose(np.load(folder / "x/b_map.npy"), expected[0, 0].numpy(), atol=1e-3)


def test_refined_maps_differ(folder):
    explain(folder, "photos/b.png", scores=False)
    before = np.load(folder / "x/b_map.npy")
    explain(folder, "photos/b.png", scores=False, steps=1)
    assert not np.allclose(before, np.load(folder / "x/b_map.npy"), atol=1e-3)
    assert facts(folder, "b")["steps"] == 1


def test_a_number_of_passes_chooses_the_steps(folder, change, capsys):
    change("refine", fractions=1, references=["mean"], hybrid=True, patience=0)
    chosen = {1: (0, False), 4: (0, True), 10: (1, False), 21: (2, False)}
    said = {1: "T = 0: 1 of 1", 4: "T = 0, hybrid: 4 of 4", 10: "T = 1: 10 of 10", 21: "T = 2: 16 of 21"}
    for passes, (steps, hybrid) in chosen.items():
        explain(folder, "photos/b.png", scores=False, passes=passes)
        assert (facts(folder, "b")["steps"], facts(folder, "b")["hybrid"]) == (steps, hybrid)
        assert f"{said[passes]} passes of the classifier per map" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match="--passes chooses --hybrid and --steps"):
        explain(folder, "photos/b.png", passes=21, steps=1)
    with pytest.raises(AttributionError, match="passes = 0"):
        explain(folder, "photos/b.png", passes=0)


def test_own_target_weights_and_explainer(folder, unchecked_types):
    from safetensors.torch import load_file, save_file

    explain(folder, "photos/b.png", scores=False)
    usual = np.load(folder / "x/b_map.npy")
    Explainer.load(folder / "outputs").save(folder / "mine")
    assert explain(folder, "photos/b.png", scores=False, explainer="mine") == 0
    np.testing.assert_array_equal(np.load(folder / "x/b_map.npy"), usual)
    state = load_file(folder / "outputs/target/model.safetensors")
    state["head.weight"] = -state["head.weight"]
    names = json.dumps([f"own {index}" for index in range(8)])
    save_file(state, folder / "own.safetensors", metadata={"class_names": names})
    assert explain(folder, "photos/b.png", scores=False, weights=folder / "own.safetensors", class_="own 3") == 0
    assert facts(folder, "b")["classes"][0]["index"] == 3
    assert not np.allclose(np.load(folder / "x/b_map.npy"), usual, atol=1e-3)
    assert explain(folder, "photos/b.png", scores=False, target="outputs/target") == 0
    with pytest.raises(TargetError, match=r"--target = 'resnet19' is not a timm model; did you mean resnet1"):
        explain(folder, "photos/b.png", target="resnet19")
    with pytest.raises(TargetError, match="own.safetensors has no classifier of the architecture"):
        explain(folder, "photos/b.png", target="resnet18", weights=folder / "own.safetensors")


def test_weights_are_for_the_target_beside_the_explainer(folder, unchecked_types):
    from safetensors.torch import load_file, save_file

    params, size, names = Context.create(folder).params, 48, ["cat", "dog", "cow"]
    torch.manual_seed(2)
    target = Target("resnet10t", create_model("resnet10t", len(names), size), size, names)
    target.set_normalisation([0.2] * 3, [0.3] * 3)
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    Explainer(target, build_explainer(params.explainer, target), training, params.refine).save(folder / "pets")
    state = load_file(folder / "pets/target/model.safetensors")
    state["fc.weight"] = -state["fc.weight"]
    save_file(state, folder / "own.safetensors")
    shutil.rmtree(folder / "outputs/explainer")
    ctx = Context.create(folder)
    with pytest.raises(
        TargetError, match="no classifier of the architecture vit_convstem_mini"
    ):  # the pipeline's target is another architecture
        load_explainer(ctx, "pets", "outputs/target", folder / "own.safetensors")
    shutil.rmtree(folder / "outputs/target")
    for named in (None, "pets/target"):
        own = load_explainer(ctx, "pets", named, folder / "own.safetensors").target
        assert (own.name, own.image_size, own.class_names) == ("resnet10t", size, names)
        assert own.mean.flatten().tolist() == pytest.approx([0.2] * 3)
        assert own.std.flatten().tolist() == pytest.approx([0.3] * 3)
        x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        bias = target.model.fc.bias
        assert torch.allclose(own(x) - bias, bias - target(x), atol=1e-5)
    assert explain(folder, "photos/b.png", scores=False, explainer="pets", weights=folder / "own.safetensors") == 0
    assert facts(folder, "b")["classes"][0]["class"] in names
    shutil.rmtree(folder / "pets/target")
    with pytest.raises(TargetError, match=r"no target in .*target; say by --target"):
        load_explainer(ctx, "pets/explainer", None, folder / "own.safetensors")


def test_a_map_in_the_terminal(folder, capsys):
    explain(folder, "photos/b.png", scores=False, show=True)
    shades = capsys.readouterr().out
    assert "█" in shades
    assert len(shades.splitlines()) == 24


def test_export_says_size_exactness_and_speed(folder, unchecked_types, capsys):
    ctx = Context.create(folder, device="cpu")
    export(ctx, "torch-export", None, None, None, None)
    assert (folder / "explainer.pt2").is_file()
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"explainer.pt2: [\d.]+ MiB; largest difference .* in maps, .* one image [\d.]+ ms", said)


@pytest.mark.usefixtures("unchecked_types")
class TestClassChoice:
    class Labels:
        name, class_names, num_classes = "net", ["red", "dark_blue", "top2"], 3

    CHANCES = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])

    def choose(self, *arguments):
        return ClassChoice.parse(*arguments, self.Labels())(self.CHANCES).tolist()

    def test_by_name_index_and_probability(self):
        assert self.choose(None, None) == [[1, 0]]
        assert self.choose("Dark Blue", None) == [[1, 1]]
        assert self.choose("0", None) == [[0, 0]]
        assert self.choose("top3", None) == [[1, 0], [2, 2], [0, 1]]
        assert self.choose("top2", None) == [[2, 2]]  # a class of that name
        assert self.choose("top1", "dark blue") == [[2, 0]]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("rad", None), "--class 'rad' .* did you mean red"),
            (("top4", None), "top4: expected top1 to top3"),
            (("top3", "red"), "top3: expected top1 to top2"),
            (("red", "0"), "both red"),
            ((None, "7"), "--against '7' .* expected a class name or 0..2"),
        ],
    )
    def test_refusals(self, arguments, words):
        with pytest.raises(AhaError, match=words):
            ClassChoice.parse(*arguments, self.Labels())


class TestFiles:
    def test_names_are_distinct_and_stay_in_the_folder(self, tmp_path):
        files = [tmp_path / name for name in ("1/a.jpg", "2/A.png", "a_2.gif", "...png", "x y/ü:*?.png", "summary.png")]
        files += [tmp_path / f"{letter * 80}{number}.png" for letter in ("lll", "漢") for number in (1, 2)]
        names = output_names(files, tmp_path, ["_overlay.png"])
        assert names[:3] == ["a", "A_2", "a_2_2"]
        assert names[3:6] == ["image", "ü", "summary_2"]
        assert len({name.casefold() for name in names}) == len(files)
        assert all((tmp_path / name).parent == tmp_path and len(name.encode()) < 160 for name in names)

    def test_no_output_replaces_an_input(self, tmp_path):
        files = [tmp_path / "a.png", tmp_path / "a_overlay.png"]
        assert output_names(files, tmp_path, ["_overlay.png"]) == ["a_2", "a_overlay"]

    def test_own_results_are_not_explained_again(self, tmp_path):
        for name in ("a.png", "maps/a_overlay.png", "sub/b.JPG", "sub/notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        found = find_images([str(tmp_path), str(tmp_path / "a.png")], [], tmp_path / "maps")
        assert [file.name for file in found.files] == ["a.png", "b.JPG"]
        assert find_images([str(tmp_path / "maps")], [], tmp_path / "maps").bad[0][1] == "no images in this folder"
