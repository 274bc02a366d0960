"""Attempts at maps, sliced and summarised rows, and what maps cost."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch

from aha_core.config import load_params
from aha_core.cost import measured
from aha_core.errors import AttributionError, ConfigError, DataError
from aha_core.evaluation import Attempt, ChunkEvaluator, attempt_maps, pictured
from aha_core.measures import BY_REFERENCE, REFERENCE_FREE, Ranked, Scene, localisation, tabulated
from aha_core.metrics import removal_order
from aha_core.scoring import Scorer
from aha_core.selection import ImageBatch
from aha_core.slices import slice_labels, slice_scores, with_facts
from aha_core.summary import (
    paired_differences,
    ranks_of_summary,
    srg_table,
    summarise,
    summarise_localisation,
    summarise_ranks,
    summarise_reference_free,
)
from aha_core.targets import Target
from tests.conftest import ROOT

X = torch.rand((3, 3, 4, 4), generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2])


def scorer(target) -> Scorer:
    return Scorer(target, "fp32", 8, 1.0)


class TestAttempt:
    def test_legal_maps_pass(self):
        for maps in (torch.zeros(3, 1, 4, 4), -torch.full((3, 1, 4, 4), 6e4).half(), 1e30 * torch.ones(3, 1, 4, 4)):
            attempt = attempt_maps(lambda x, c, maps=maps: maps, X, CLASSES)
            assert attempt.errors == {} and attempt.maps.equal(maps.float())

    def test_one_bad_image_does_not_take_the_others_along(self):
        calls = []

        def method(x, classes):
            calls.append(len(x))
            if bool((classes == 1).any()):
                raise RuntimeError("no class 1\nmore")
            return x[:, :1] + classes.view(-1, 1, 1, 1)

        attempt = attempt_maps(method, X, CLASSES)
        assert calls == [3, 1, 1, 1]
        assert attempt.errors == {1: "RuntimeError: no class 1"}
        assert attempt.maps[1].abs().max() == 0
        assert attempt.maps[2].equal(X[2, :1] + 2)

    def test_values_that_are_not_finite(self):
        maps = torch.ones(3, 1, 4, 4)
        maps[2, 0, 0, :2] = torch.tensor([torch.nan, -torch.inf])
        attempt = attempt_maps(lambda x, c: maps, X, CLASSES)
        assert attempt.errors == {2: "2 of 16 values are NaN or infinite"} and attempt.maps.isfinite().all()

    def test_wrong_shapes(self):
        attempt = attempt_maps(lambda x, c: x, X, CLASSES)
        assert len(attempt.errors) == 3 and "(1, 3, 4, 4) instead of (1, 1, 4, 4)" in attempt.errors[0]

    def test_an_interrupt_is_not_a_failure(self):
        def method(x, classes):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            attempt_maps(method, X, CLASSES)


@pytest.fixture(scope="module")
def target() -> Target:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=1, num_heads=1, num_classes=3)
    return Target("vit", model, 32, ["a", "b", "c"])


class TestCost:
    def test_passes_are_counted_exactly(self, target):
        x = torch.rand(2, 3, 32, 32)
        with measured(target) as cost:
            with torch.no_grad():
                target(x)
            target(x.clone().requires_grad_())[:, 0].sum().backward()
        assert (cost.forward, cost.gradients) == (4, 2)
        assert cost.seconds > 0 and (cost.peak_bytes is None or cost.peak_bytes >= 0)

    def test_hooks_go_also_after_an_error(self, target):
        with pytest.raises(RuntimeError), measured(target) as cost:
            target(torch.rand(1, 3, 32, 32))
            raise RuntimeError
        assert cost.forward == 1
        assert not any(module._forward_hooks for module in target.modules())

    def test_memory_of_a_large_allocation_is_seen(self, target):
        with measured(target) as cost:
            held = torch.ones(200, 1 << 18)  # 200 MiB
        if cost.peak_bytes is None:
            pytest.skip("this platform does not tell the peak")
        assert 150e6 < cost.peak_bytes < 400e6 and held.numel()


@pytest.mark.parametrize(("value", "words"), [(1.5, "to 1.5"), (-0.1, "from -0.1"), (torch.nan, "nan")])
def test_bad_images_are_named(target, value, words):
    params = load_params(ROOT / "params.yaml")
    images = torch.rand(2, 3, 32, 32)
    images[1, 0, 3, 3] = value
    classes = torch.tensor([0, 1])
    batch = ImageBatch(images, classes, None, [0, 1], ["good.png", "bad.png"])
    with pytest.raises(DataError, match=f"image bad.png: .*{words}.* before normalisation"):
        ChunkEvaluator(scorer(target), batch, "predicted", classes, params.evaluate, params.perturbation, 0)


def test_inputs_never_change(target):
    params = load_params(ROOT / "params.yaml")
    config = params.evaluate.model_copy(update={"measures": (*BY_REFERENCE, *REFERENCE_FREE), "points": 3})
    images, maps, masks = torch.rand(2, 3, 32, 32), torch.randn(2, 1, 32, 32), torch.rand(2, 1, 32, 32) < 0.3
    blur = params.perturbation.model_copy(update={"blur_kernel": 15})
    classes = torch.tensor([0, 1])
    before = [one.clone() for one in (images, maps, masks, classes)]
    evaluator = ChunkEvaluator(
        scorer(target), ImageBatch(images, classes, masks, [0, 1], ["a", "b"]), "predicted", classes, config, blur, 0
    )
    part = evaluator.score("x", Attempt(maps, {}))
    assert all(now.equal(old) for now, old in zip((images, maps, masks, classes), before, strict=True))
    assert len(part.rows) == 2 * len(config.references)
    assert all(
        np.isfinite(value) for row in part.rows + part.free for value in row.values() if isinstance(value, float)
    )


@pytest.fixture(scope="module")
def evaluator(target) -> ChunkEvaluator:
    """Every measure and localisation of two images."""
    params = load_params(ROOT / "params.yaml")
    config = params.evaluate.model_copy(update={"measures": (*BY_REFERENCE, *REFERENCE_FREE), "points": 4})
    blur = params.perturbation.model_copy(update={"blur_kernel": 15})
    source = torch.Generator().manual_seed(3)
    images, masks = torch.rand((2, 3, 32, 32), generator=source), torch.rand((2, 1, 32, 32), generator=source) < 0.3
    classes = torch.tensor([0, 1])
    batch = ImageBatch(images, classes, masks, [0, 1], ["a", "b"])
    return ChunkEvaluator(scorer(target), batch, "predicted", classes, config, blur, 0)


MAPS = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(4)).half().float()
BAD = {
    "constant": torch.full_like(MAPS, 0.7),
    "zero": torch.zeros_like(MAPS),
    "negative": MAPS - 5,
    "float16": MAPS.half(),
    "bfloat16": MAPS.bfloat16(),
    "float64": MAPS.double(),
    "huge": MAPS * 1e30,
    "tiny": MAPS * 1e-30,
    "one pixel": (MAPS.amax(dim=(1, 2, 3), keepdim=True) == MAPS).float(),
}


@pytest.mark.parametrize("kind", BAD)
def test_odd_maps_get_finite_rows_and_only_their_order_counts(evaluator, kind):
    def part(maps):
        return evaluator.score("x", attempt_maps(lambda x, c: maps, evaluator.batch.x, evaluator.scene.classes))

    odd = part(BAD[kind])
    assert odd.failures == [] and len(odd.rows) == 2 * len(evaluator.config.references)
    for row in odd.rows + odd.free + odd.localisation:
        values = {name: value for name, value in row.items() if isinstance(value, float)}
        assert all(np.isfinite(value) for value in values.values()), values
    if kind in ("negative", "float16", "float64", "huge", "tiny"):  # the same order: the same curves
        for name, curve in part(MAPS).curves.items():
            np.testing.assert_array_equal(odd.curves[name], curve)
    kept = pictured(BAD[kind][:, 0])
    assert np.isfinite(kept).all() and kept.dtype == np.float16
    if kind in ("huge", "tiny"):  # the unit is lost, the values are not
        np.testing.assert_allclose(kept, pictured(MAPS[:, 0]), atol=1e-3)
    if kind in ("constant", "zero"):  # ties fall alike, whatever the value
        np.testing.assert_array_equal(odd.curves["black"], part(torch.ones_like(MAPS)).curves["black"])


def table(methods: dict[str, list[float]]) -> pd.DataFrame:
    """Rows of SRG values per image under two references that differ by .2."""
    rows = []
    for method, values in methods.items():
        for index, value in enumerate(values):
            for reference, shift in (("black", -0.1), ("blur", 0.1)):
                facts = {"index": index, "role": "predicted", "class": index % 2, "label": 0, "method": method}
                scores = {"deletion": 0.2, "insertion": 0.2 + value + shift, "srg": value + shift}
                rows.append(facts | {"reference": reference, "probability": index / 10} | scores)
    return pd.DataFrame(rows)


ROWS = table({"aha_t0": [0.4, 0.5, 0.6], "aha_t1": [0.5, 0.6, 0.7], "rise": [0.1, 0.2, 0.3]})


class TestSummary:
    def test_references_are_averaged_first(self):
        summary = summarise(ROWS, 50, 0)["predicted"]
        assert summary["rise"]["srg"]["mean"] == 0.2 and summary["rise"]["srg"]["n"] == 3
        assert summary["rise"]["by_reference"]["blur"]["srg"] == 0.3
        assert summary["rise"]["aha_t0_minus_this"]["mean"] == 0.3

    def test_comparisons_use_the_images_that_both_have(self):
        missing = ROWS[~((ROWS["method"] == "rise") & (ROWS["index"] == 0))]
        summary = summarise(missing, 50, 0)["predicted"]
        assert summary["rise"]["aha_t0_minus_this"]["n"] == 2 and summary["rise"]["srg"]["mean"] == 0.25
        assert len(srg_table(missing, "predicted")) == 2

    def test_without_our_own_maps_there_is_no_comparison(self):
        with pytest.raises(AttributionError, match="no usable map of aha_t0"):
            summarise(ROWS[ROWS["method"] != "aha_t0"], 50, 0)

    def test_ranks(self):
        summary = summarise_ranks(srg_table(ROWS, "predicted"), 50, 0)
        assert {name: one["mean_rank"] for name, one in summary["methods"].items()} == {
            "aha_t0": 2.0, "aha_t1": 1.0, "rise": 3.0,
        }  # fmt: skip
        assert summary["methods"]["aha_t1"]["first"] == 1.0
        names, difference = ranks_of_summary(summary)
        assert names == ["aha_t0", "aha_t1", "rise"] and difference.mean_ranks == (2.0, 1.0, 3.0)

    def test_localisation_also_on_the_off_centre_images(self):
        rows = pd.DataFrame({"method": ["a", "a"], "energy": [0.2, 0.8], "area": [0.1, 0.3], "off_centre": [1.0, 0.0]})
        summary = summarise_localisation(rows, 10, 0)["a"]
        assert summary["energy"]["mean"] == 0.5 and summary["off_centre"]["energy"] == {
            "mean": 0.2, "low": 0.2, "high": 0.2, "n": 1,
        }  # fmt: skip


SOME_MASKS = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
SOME_MASKS[0, :, 3:20, 5:18] = SOME_MASKS[2, :, 10:13] = True
SOME_VOID = torch.zeros_like(SOME_MASKS)
SOME_VOID[0, :, 20:24] = SOME_VOID[2, :, :, :9] = True
SOME_MASKS &= ~SOME_VOID


def places(target, step: int, masks, void, errors: dict[int, str] | None = None) -> list[dict]:
    """Rows of localisation of four images, evaluated in chunks of this size."""
    params = load_params(ROOT / "params.yaml")
    config = params.evaluate.model_copy(update={"measures": (), "references": ("black",), "points": 3})
    source = torch.Generator().manual_seed(5)
    images, maps = torch.rand((4, 3, 32, 32), generator=source), torch.rand((4, 1, 32, 32), generator=source)
    classes, rows = torch.tensor([0, 1, 2, 0]), []
    for start in range(0, 4, step):
        own = slice(start, start + step)
        known, unknown = (one[own] if one is not None and one[own].any() else None for one in (masks, void))
        batch = ImageBatch(images[own], classes[own], known, [0, 1, 2, 3][own], list("abcd")[own], unknown)
        chunk = ChunkEvaluator(scorer(target), batch, "predicted", classes[own], config, params.perturbation, 0)
        failed = {place - start: why for place, why in (errors or {}).items() if 0 <= place - start < step}
        rows += chunk.score("x", Attempt(maps[own], failed)).localisation
    return rows


class TestImagesWithoutMasks:
    @pytest.mark.parametrize("void", [None, SOME_VOID])
    def test_they_have_no_rows_and_chunks_do_not_matter(self, target, void):
        whole = places(target, 4, SOME_MASKS, void)
        assert [(row["image"], row["index"]) for row in whole] == [("a", 0), ("c", 2)]
        for step in (1, 2, 3):
            assert pd.DataFrame(places(target, step, SOME_MASKS, void)).round(9).equals(pd.DataFrame(whole).round(9))

    def test_no_masks_at_all(self, target):
        assert places(target, 4, None, None) == places(target, 4, torch.zeros_like(SOME_MASKS), None) == []

    def test_beside_failures(self, target):
        rows = places(target, 4, SOME_MASKS, None, {0: "nan", 1: "nan"})
        assert [row["image"] for row in rows] == ["c"]
        assert rows == places(target, 4, SOME_MASKS, None)[1:]
        assert places(target, 4, SOME_MASKS, SOME_VOID, {0: "nan", 2: "nan"}) == []


class TestVoid:
    MAP = torch.tensor([[9.0, 3.0, 1.0], [8.0, 2.0, 0.0], [7.0, 4.0, 1.0]])[None, None]
    OBJECT = torch.tensor([[0, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)[None, None]
    LEFT = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)[None, None]

    def measured(self, void, maps=MAP):
        none = torch.tensor([0])
        scene = Scene(lambda x: x[:, :, 0, 0], torch.zeros(1, 3, 3, 3), none, none, [0], self.OBJECT, 1, void)
        return tabulated(localisation(scene, Ranked(maps, removal_order(maps, [0])), [0]))[0]

    def test_hand_computed(self):
        """Left are 3 1 / 2 0 / 4 1, with the object at 3 and 2; the mean is 11 / 6."""
        row = self.measured(self.LEFT)
        assert row["pointing"] == 0  # at 4
        assert row["energy"] == pytest.approx(5 / 11)
        assert row["rank_accuracy"] == pytest.approx(1 / 2)  # 4 and 3
        assert row["area"] == pytest.approx(2 / 6)
        assert row["best_iou"] == pytest.approx(2 / 3)  # 4, 3, 2
        assert row["mean_iou"] == pytest.approx(2 / 3)
        assert row["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
        counted = self.measured(None)
        assert counted["energy"] == pytest.approx(5 / 35) and counted["rank_accuracy"] == 0
        assert counted["area"] == pytest.approx(2 / 9)

    def test_the_map_there_matters_to_the_boundary_alone(self):
        other = self.MAP.clone()
        other[..., 0] = torch.tensor([-5.0, 2.0, 100.0])
        assert self.measured(self.LEFT, other) | {"boundary": 0} == self.measured(self.LEFT) | {"boundary": 0}

    def test_no_void_pixel_is_as_without(self):
        assert self.measured(torch.zeros_like(self.LEFT)) == pytest.approx(self.measured(None))

    def test_an_object_that_is_all_that_counts(self):
        row = self.measured(~self.OBJECT)
        assert row["mean_iou"] == 0.5  # the mean of 3 and 2 lies between them
        assert all(row[name] == 1 for name in row if name not in ("mean_iou", "boundary", "off_centre"))


class TestSlices:
    def test_by_value_and_by_tercile(self):
        facts = with_facts(ROWS, None)
        assert set(slice_labels(facts, "correct")) == {"True", "False"}
        many = with_facts(table({"aha_t0": [i / 10 for i in range(9)]}), None)
        parts = slice_scores(many, "confidence", 20, 0)
        assert parts["slice"].tolist() == ["up to 0.267", "0.267 to 0.533", "above 0.533"]
        assert parts["images"].tolist() == [3, 3, 3]
        assert parts["srg"].tolist() == pytest.approx([0.1, 0.4, 0.7])

    def test_object_size_comes_from_the_masks(self):
        places = pd.DataFrame(
            {"index": [0, 1, 2], "role": "predicted", "area": [0.1, 0.2, 0.3], "off_centre": [1, 0, 0]}
        )
        parts = slice_scores(with_facts(ROWS, places), "off_centre", 20, 0)
        assert parts[parts["method"] == "rise"].set_index("slice")["srg"].to_dict() == {"True": 0.1, "False": 0.25}

    def test_images_without_a_mask_are_in_no_slice_of_it(self):
        places = pd.DataFrame({"index": [0, 2], "role": "predicted", "area": [0.1, 0.3], "off_centre": [1, 0]})
        facts = with_facts(ROWS, places)
        for column, images in (("off_centre", {"True": 1, "False": 1}), ("object_size", {"0.1": 1, "0.3": 1})):
            parts = slice_scores(facts, column, 20, 0)
            assert parts[parts["method"] == "rise"].set_index("slice")["images"].to_dict() == images
        assert slice_scores(facts, "correct", 20, 0).groupby("method")["images"].sum().eq(3).all()

    def test_unknown_column(self):
        with pytest.raises(ConfigError, match="no column 'size'; with this data: .*confidence"):
            slice_labels(with_facts(ROWS, None), "size")


def test_paired_differences_are_over_common_images_and_corrected_over_all():
    up, mixed = pd.Series(np.arange(1.0, 7), index=range(6)), pd.Series([-1.0, 2, -3, 4, -5, 6], index=range(6))
    none, elsewhere = pd.Series(np.zeros(6), index=range(6)), pd.Series([1.0], index=[9])
    pairs = {"up": (up, none), "five": (up.loc[:4], none), "mixed": (mixed, none), "apart": (elsewhere, none)}
    found = paired_differences(pairs, 10, 0)
    assert list(found) == ["up", "five", "mixed"]
    # Wilcoxon, exact: 2 / 2^6, 2 / 2^5, and 2 * 27 / 2^6 (27 sets of ranks sum to 9 or less); times 3, 2, 1.
    assert [one["p_holm"] for one in found.values()] == pytest.approx([3 / 32, 1 / 8, 27 / 32], rel=1e-2)
    assert found["five"]["n"] == 5 and found["up"]["mean"] == 3.5
    assert set(found["mixed"]) == {"mean", "low", "high", "effect", "n", "p_holm"}


def test_reference_free_measures_are_compared_on_the_images_that_have_them():
    values = {"aha_t0": [10.0, 20, 30], "aha_t1": [11.0, 21, 32], "centre": [8.0, 16, 24], "chefer": [9.0, 9]}
    rows = pd.DataFrame(
        [
            {"method": method, "index": index, "pos": pos, "gini": 0.5 if index else np.nan}
            for method, column in values.items()
            for index, pos in enumerate(column)
        ]
    )
    table = summarise_reference_free(rows, 10, 0)
    assert table["centre"]["aha_t0_minus_this"]["pos"]["mean"] == 4
    assert table["chefer"]["aha_t0_minus_this"]["pos"] | {"p_holm": 1.0, "effect": 0} == {
        "mean": 6.0, "low": 1.0, "high": 11.0, "effect": 0, "n": 2, "p_holm": 1.0,
    }  # fmt: skip
    assert table["chefer"]["aha_t1_minus_this"]["pos"]["mean"] == 7
    assert table["aha_t0"]["aha_t1_minus_this"]["pos"]["mean"] == pytest.approx(4 / 3, abs=1e-4)
    assert table["chefer"]["aha_t0_minus_this"]["gini"]["n"] == 1 and "aha_t0_minus_this" not in table["aha_t0"]


def test_without_any_map_of_ours_the_message_says_what_to_do():
    rows = pd.DataFrame(
        {"role": "predicted", "method": "chefer", "index": [0, 1], "reference": "black"}
        | {name: [0.1, 0.2] for name in ("deletion", "insertion", "srg")}
    )
    with pytest.raises(AttributionError, match="no usable map of aha_t0; .* then `aha refine`"):
        summarise(rows, 10, 0)
