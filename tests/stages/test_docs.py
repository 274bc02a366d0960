"""Numbers in docs/ are those of the committed results; the site builds; what the pages say to type works."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
import timm
import torch
import typer
from PIL import Image

from aha_core.attribution import Explainer
from aha_core.budget import passes_of
from aha_core.config import load_params
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.sources import DEFAULT
from aha_core.targets import Target
from stages.bench_methods import in_passes
from stages.cli import app, main
from stages.context import Context
from tests.conftest import ROOT

QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's word about its successor

RESULTS = ROOT / "docs/results"


def decimals(value: float) -> str:
    """.017 or −.017, as the pages write it."""
    return f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def bench_table() -> str:
    """The cost table of docs/training-cost.md, from the CSV files."""
    lines = [
        "| profile | preset | images/s | peak MB | masked passes per image | outside |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for file in sorted((RESULTS / "bench").glob("*/train.csv")):
        profile, rows = file.parent.name, pd.read_csv(file)
        for row in rows.itertuples():
            lines.append(
                f"| {profile} | {row.preset} | {row.images_per_second:.3g} | {row.peak_mb:.0f} | {row.masked_passes:g} "
                f"| {row.outside:.0%} |"
            )
    assert len(lines) > 2
    return "\n".join(lines)


def test_cost_table_is_the_committed_one():
    page = (ROOT / "docs/training-cost.md").read_text()
    assert page.split("<!-- table bench -->\n")[1].split("\n<!-- end -->")[0] == bench_table()


def test_table_of_evaluation_speed_is_the_committed_one():
    lines = ["| precision | plain passes/s | evaluation passes/s | efficiency |", "| --- | ---: | ---: | ---: |"]
    for row in pd.read_csv(RESULTS / "bench/vit-tiny/evaluation.csv").itertuples():
        lines.append(f"| {row.precision} | {row.plain:.1f} | {row.evaluation:.1f} | {row.efficiency:.0%} |")
        assert row.efficiency >= 0.85  # what the page promises
    page = (ROOT / "docs/metrics.md").read_text()
    assert page.split("<!-- table evaluation -->\n")[1].split("\n<!-- end -->")[0] == "\n".join(lines)


def test_what_folding_is_worth_is_what_the_tables_say():
    page = " ".join((ROOT / "docs/training-cost.md").read_text().split())
    kept, glibc = (
        pd.read_csv(RESULTS / f"bench/mobilenetv2/{name}.csv").set_index("variant").with_gradient_ms
        for name in ("passes", "passes-glibc")
    )
    plain, folded = "fp32, channels last", "fp32, channels last, folded"
    assert f"takes {kept[plain]:.1f} ms per image, folded {kept[folded]:.1f};" in page
    assert f"given back, {glibc[plain]:.1f} and {glibc[folded]:.1f}." in page


def with_interval(value: dict, digits: int) -> str:
    mean, low, high = (f"{value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def grid_table() -> str:
    """The scores of the grid pointing game in docs/metrics.md, AHA first, then by rank accuracy."""
    lines = ["| target | method | energy | rank accuracy | hit |", "| --- | --- | ---: | ---: | ---: |"]
    for profile, target in (("vit-tiny-imagenet", "ViT-Tiny"), ("mobilenetv2-imagenet", "MobileNetV2")):
        checks = json.loads((RESULTS / profile / "evaluation.json").read_text())["checks"]
        order = sorted(checks, key=lambda name: (name != "aha", -checks[name]["grid_2x2_rank"]["mean"]))
        for name in order:
            cells = [with_interval(checks[name][f"grid_2x2{kind}"], 2) for kind in ("", "_rank", "_hit")]
            lines.append(f"| {target} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_table_of_grid_pointing_is_the_committed_one():
    page = (ROOT / "docs/metrics.md").read_text()
    assert page.split("<!-- table grid -->\n")[1].split("\n<!-- end -->")[0] == grid_table()


def mosaics_table() -> str:
    """ViT-Tiny on both grids, AHA's steps included."""
    checks = json.loads((RESULTS / "vit-tiny-imagenet/grid.json").read_text())["checks"]
    lines = [
        "| method | energy 2 × 2 | rank 2 × 2 | hit 2 × 2 | energy 3 × 3 | rank 3 × 3 | hit 3 × 3 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = [name for name in checks if name.startswith("aha")]
    others = sorted(set(checks) - set(ours), key=lambda name: (-checks[name]["grid_2x2_rank"]["mean"], name))
    for name in ours + others:
        scores = [f"grid_{side}x{side}{kind}" for side in (2, 3) for kind in ("", "_rank", "_hit")]
        lines.append(f"| `{name}` | {' | '.join(with_interval(checks[name][score], 2) for score in scores)} |")
    return "\n".join(lines)


def costs_table() -> str:
    """What a map of each method costs, the cheapest first."""
    lines = [
        "| method | ms per map | plain passes | peak MB | forward passes | gradients |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = pd.read_csv(RESULTS / "bench/vit-tiny/methods.csv").sort_values("seconds")
    for row in rows.itertuples():
        cells = [f"`{row.method}`", f"{1000 * row.seconds:,.0f}", in_passes(row.cost), f"{row.peak_mb:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {row.forward:,.4g} | {row.gradients:,.4g} |")
    return "\n".join(lines)


def measures_table() -> str:
    """Measures that nothing was trained on, in docs/results.md, AHA first."""
    summary = json.loads((RESULTS / "vit-tiny-imagenet/measures.json").read_text())
    scores, free = summary["scores"]["predicted"], summary["reference_free"]
    lines = [
        "| method | ROAD ↑ | MAS ↑ | SaCo ↑ | single deletion ↑ |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    ours = ["aha_t3", "aha_hybrid", "aha_t0"]
    others = sorted(
        (name for name in scores if not name.startswith("aha_")), key=lambda name: -scores[name]["srg"]["mean"]
    )
    for name in ours + others:
        cells = [with_interval(free[name]["road"], 3)]
        cells += [with_interval(scores[name][one], 3) for one in ("mas", "saco", "single_deletion")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_what_the_results_say_of_measures_that_were_not_optimised_is_committed():
    page = " ".join((ROOT / "docs/results.md").read_text().split())
    summary = json.loads((RESULTS / "vit-tiny-imagenet/measures.json").read_text())
    scores, free = summary["scores"]["predicted"], summary["reference_free"]
    others = scores.keys() - {"aha_t3", "aha_hybrid", "aha_t0"}
    for one, of in (("road", free), ("mas", scores), ("saco", scores)):
        assert all(of["aha_t3"][one]["low"] > of[name][one]["high"] for name in of.keys() - {"aha_t3"}), one
    assert all(
        scores[own]["mas"]["low"] > scores[name]["mas"]["high"] for own in scores.keys() - others for name in others
    )
    gaps = [free["chefer"][f"{own}_minus_this"]["road"] for own in ("aha_t3", "aha_hybrid", "aha_t0")]
    said = [
        "{} [{}, {}]".format(*(decimals(gap[one]).replace("-0.", "−.") for one in ("mean", "low", "high")))
        for gap in gaps
    ]
    assert "T = 3 is above Chefer by {}, hybrid by {}, one pass by {};".format(*said) in page


def classes_table() -> str:
    """SRG by class role in docs/results.md."""
    scores = json.loads((RESULTS / "vit-tiny-imagenet/classes.json").read_text())["scores"]
    roles = ("predicted", "label", "runner_up")
    lines = ["| method | predicted | label | runner-up |", "| --- | ---: | ---: | ---: |"]
    for name in ("aha_t3", "aha_hybrid", "aha_t0", "chefer", "smoothgrad", "legrad"):
        cells = [with_interval(scores[role][name]["srg"], 3) for role in roles]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy_table() -> str:
    """POS, NEG and NEG - POS in docs/results.md, AHA first, then by the difference from one pass."""
    free = json.loads((RESULTS / "vit-tiny-imagenet/accuracy.json").read_text())["reference_free"]
    ours = ["aha_t3", "aha_hybrid", "aha_t0"]
    others = sorted(
        (name for name in free if not name.startswith("aha_")), key=lambda name: -free[name]["pos_neg"]["mean"]
    )
    lines = [
        "| method | POS ↓ | NEG ↑ | NEG − POS ↑ | one pass − method |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in ours + others:
        cells = [with_interval(free[name][one], 1) for one in ("pos", "neg", "pos_neg")]
        gap = free[name].get("aha_t0_minus_this")
        cells.append("{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**gap["pos_neg"]) if gap else "")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def references_table() -> str:
    scores = json.loads((RESULTS / "vit-tiny-imagenet/evaluation.json").read_text())["scores"]["predicted"]
    lines = ["| method | black | mean | blur |", "| --- | ---: | ---: | ---: |"]
    for name in ("aha_t3", "aha_hybrid", "aha_t0", "fastshap", "chefer", "smoothgrad", "legrad"):
        by = scores[name]["by_reference"]
        cells = [f"{by[one]['srg']:.3f}" for one in ("black", "mean", "blur")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_accuracy_is_the_committed_one():
    free = json.loads((RESULTS / "vit-tiny-imagenet/accuracy.json").read_text())["reference_free"]
    gap = free["chefer"]["aha_t0_minus_this"]["pos_neg"]
    results = " ".join((ROOT / "docs/results.md").read_text().split())
    assert "(NEG − POS, not trained on: below)" in results
    assert "one pass is above Chefer by {mean:.1f} [{low:.1f}, {high:.1f}] points".format(**gap) in results
    ours = {"aha_t0", "aha_hybrid", "aha_t3"}
    for name in free.keys() - ours:
        assert free[name]["aha_t0_minus_this"]["pos_neg"]["low"] > 0, name
        for one in ("aha_hybrid", "aha_t3"):  # scored later, paired with Chefer alone
            assert free[one]["pos_neg"]["low"] > free[name]["pos_neg"]["high"], name
    page = (ROOT / "docs/results.md").read_text()
    chefer, smooth = (free[name]["aha_t3_minus_this"]["pos"] for name in ("chefer", "smoothgrad"))
    assert f"T = 3 is {-chefer['mean']:.1f} [{-chefer['high']:.1f}, {-chefer['low']:.1f}] better than Chefer" in page
    level = f"SmoothGrad (+{smooth['mean']:.1f} [−{-smooth['low']:.1f}, +{smooth['high']:.1f}])"
    assert smooth["low"] < 0 < smooth["high"] and level in page


@pytest.mark.parametrize("reference", ["black", "mean", "blur"])
def test_one_pass_is_above_chefer_under_each_reference_as_the_page_says(reference):
    rows = pd.read_parquet(RESULTS / "vit-tiny-imagenet/scores.parquet")
    srg = rows[rows.reference == reference].pivot(index="index", columns="method", values="srg")
    gap = paired_difference(srg["aha_t0"].to_numpy(), srg["chefer"].to_numpy(), 2000, 42)
    assert gap.n == 300 and gap.low > 0
    written = json.loads((RESULTS / "vit-tiny-imagenet/evaluation.json").read_text())["scores"]["predicted"]
    for name in ("aha_t0", "chefer"):
        assert written[name]["by_reference"][reference]["srg"] == pytest.approx(srg[name].mean(), abs=1e-4)


def test_what_the_results_say_of_vit_tinys_steps_is_committed():
    results = " ".join((ROOT / "docs/results.md").read_text().split())
    scores = json.loads((RESULTS / "vit-tiny-imagenet/evaluation.json").read_text())["scores"]["predicted"]
    srg = {name: row["srg"]["mean"] for name, row in scores.items()}
    hybrid, refined = (srg[name] / srg["chefer"] for name in ("aha_hybrid", "aha_t3"))
    assert f"makes it {hybrid:.2f} times Chefer, three refinement steps {refined:.2f} times." in results
    rows = pd.read_parquet(RESULTS / "vit-tiny-imagenet/scores.parquet")
    both = rows[rows["index"].isin(rows["index"].drop_duplicates().head(64))].pivot_table("srg", "index", "method")
    once, refined = (bootstrap_ci(both[name].to_numpy(), 2000, 42) for name in ("aha_t0", "aha_t3"))
    passes = passes_of(load_params(ROOT / "configs/vit-tiny-imagenet.yaml").refine, 3)
    assert (
        f"now has {once.mean:.3f} and T=3, with {passes} passes, {refined.mean:.3f} [{refined.low:.3f}, "
        f"{refined.high:.3f}]: its mean is above those of LIME and Kernel SHAP"
    ) in results
    for name in ("lime", "kernel_shap", "greedy"):
        assert refined.low < scores[name]["srg"]["high"] and scores[name]["srg"]["mean"] < refined.mean
    deletion = rows.pivot_table("deletion", "index", "method")
    assert sorted(srg, key=lambda name: scores[name]["deletion"]["mean"])[:2] == ["aha_t3", "smoothgrad"]
    gap = paired_difference(deletion["aha_t3"].to_numpy(), deletion["smoothgrad"].to_numpy(), 2000, 42)
    assert gap.n == 300 and f"({gap.mean:.3f} [{gap.low:.3f}, {gap.high:.3f}] to SmoothGrad)" in results


def test_what_the_pages_say_of_the_grain_of_refined_maps_is_committed():
    srg = pd.read_csv(RESULTS / "vit-tiny-imagenet/units.csv").set_index(["method", "unit"]).srg
    results, metrics = (" ".join((ROOT / f"docs/{page}.md").read_text().split()) for page in ("results", "metrics"))
    refined = [decimals(srg["aha_t3", unit]) for unit in ("patches", "pixels")]
    assert f"(T=3 {refined[0]} for {refined[1]})" in results
    assert f"by patches three steps of them have {refined[0]}," in metrics
    assert srg["aha_t3", "patches"] < srg["aha_t3", "pixels"]
    for name in ("aha_t0", "aha_hybrid", "chefer", "legrad", "smoothgrad"):
        assert srg[name, "patches"] > srg[name, "pixels"]
        assert all(srg["aha_t3", unit] > srg[name, unit] for unit in ("patches", "pixels"))


def test_what_the_pages_say_of_ten_steps_is_committed():
    table = pd.read_csv(RESULTS / "vit-tiny-imagenet/tradeoff.csv")
    ten = table[table.steps == 10].set_index("setting")
    (chefer,), rise = table.srg[table.method == "chefer"], table[table.masks == 4000].iloc[0]
    two, three = ten.loc["S = 2"], ten.loc["S = 3"]
    said = (
        f"{{}} with two fractions a step, {two.passes} passes, and {{}} with three, {three.passes} passes: "
        f"{two.srg / chefer:.2f} and {three.srg / chefer:.2f} times Chefer"
    )
    for file, show in (
        ("docs/results.md", decimals),
        (f"aha_core/pretrained/{DEFAULT}/MODEL_CARD.md", "{:.3f}".format),
    ):
        page = " ".join((ROOT / file).read_text().split())
        assert said.format(*(f"{show(one.srg)} [{show(one.low)}, {show(one.high)}]" for one in (two, three))) in page
    assert two.low > rise.high and two.passes < rise.passes / 10
    results, greedy = " ".join((ROOT / "docs/results.md").read_text().split()), table[table.method == "greedy"].iloc[0]
    first, once = (table[(table.setting == "S = 2") & (table.steps == steps)].iloc[0] for steps in (1, 0))
    two, first, once = (
        f"{decimals(one.minus_rise)} [{decimals(one.minus_rise_low)}, {decimals(one.minus_rise_high)}]"
        for one in (two, first, once)
    )
    assert f"364 passes are {two} above RISE with 4,000 masks ({decimals(rise.srg)})" in results
    assert f"one step with 40 passes is {first} above it, and one pass level with it ({once})" in results
    own = f"{decimals(greedy.srg)} [{decimals(greedy.low)}, {decimals(greedy.high)}] with its {greedy.passes:,} passes"
    assert own in results


def test_the_results_say_what_speaks_against_mobilenetv2s_explainer():
    results = " ".join((ROOT / "docs/results.md").read_text().split())
    scores = json.loads((RESULTS / "mobilenetv2-imagenet/evaluation.json").read_text())["scores"]["predicted"]
    rows = pd.read_parquet(RESULTS / "mobilenetv2-imagenet/scores.parquet")
    first = rows[rows["index"].isin(rows["index"].drop_duplicates().head(64))].groupby("method").srg.mean()
    assert f"there one pass now has {first['aha_t0']:.3f} and T=3 {first['aha_t3']:.3f}. By their" in results
    assert first["aha_t3"] > scores["lime"]["srg"]["mean"] > first["aha_t0"] > scores["occlusion"]["srg"]["mean"]
    black = {name: f"{row['by_reference']['black']['srg']:.3f}".lstrip("0") for name, row in scores.items()}
    dark = rows[rows.reference == "black"].pivot(index="index", columns="method", values="srg")
    gap = paired_difference(dark["aha_t3"].to_numpy(), dark["grad_cam"].to_numpy(), 2000, 42)
    assert gap.low > 0
    assert (
        f"under black alone Grad-CAM has {black['grad_cam']}, one pass {black['aha_t0']}, "
        f"three steps {black['aha_t3']} (above Grad-CAM by {gap.mean:.3f} [{gap.low:.3f}, {gap.high:.3f}]), "
        f"hybrid {black['aha_hybrid']}."
    ) in results
    deletion = {name: row["deletion"]["mean"] for name, row in scores.items()}
    shown = {name: f"({value:.3f})".replace("0.", ".") for name, value in deletion.items()}
    assert (
        f"one pass {shown['aha_t0']} is behind even a random order {shown['random']}, "
        f"three steps {shown['aha_t3']} and SmoothGrad {shown['smoothgrad']} are the best."
    ) in results
    assert sorted(deletion, key=deletion.__getitem__)[:2] == ["aha_t3", "smoothgrad"]
    assert deletion["aha_t0"] > deletion["random"]
    gap, hybrid = (scores["grad_cam"][f"aha_{name}_minus_this"] for name in ("t0", "hybrid"))
    assert "**One pass** is above Grad-CAM ({mean:+.3f} [{low:+.3f}, {high:+.3f}];".format(**gap) in results
    assert "hybrid map** is above Grad-CAM by {mean:.3f} [{low:.3f}, {high:.3f}]".format(**hybrid) in results
    assert f"three steps are {scores['aha_t3']['srg']['mean'] / scores['grad_cam']['srg']['mean']:.2f} times" in results


@pytest.mark.parametrize(
    "profile, file, after, before, sentence",
    [
        (
            "mobilenetv2-imagenet",
            "before-third.csv",
            "third_training",
            "second_training",
            "one pass paired: +{0} [{1}, {2}]",
        ),
        (
            "vit-tiny-imagenet",
            "before-mosaics.csv",
            "second_training",
            "first_training",
            "difference is paired, {0} [{1}, +{2}]",
        ),
    ],
)
def test_what_a_later_training_changed_is_committed(profile, file, after, before, sentence):
    page = " ".join((ROOT / "docs/pretrained.md").read_text().split())
    table = pd.read_csv(RESULTS / profile / file)
    assert len(table) == 300
    gap = paired_difference(table[after].to_numpy(), table[before].to_numpy(), 2000, 42)
    assert sentence.format(*map(decimals, (gap.mean, gap.low, gap.high))) in page
    found = json.loads((RESULTS / profile / "evaluation.json").read_text())
    scores = found["scores"]["predicted"]
    assert scores["aha_t0"]["srg"]["mean"] == pytest.approx(table[after].mean(), abs=2e-3)  # of several runs
    row = f"| {decimals(table[before].mean())} | {decimals(scores['aha_t0']['srg']['mean'])} |"
    assert row in page


def test_what_mobilenetv2s_third_training_changed_is_committed():
    page = (ROOT / "docs/pretrained.md").read_text()
    table = page.split("## What MobileNetV2's third training changed")[1].split("\n## ")[0]
    found = json.loads((RESULTS / "mobilenetv2-imagenet/evaluation.json").read_text())
    scores, checks = found["scores"]["predicted"], found["checks"]
    for named, score in (("SRG, predicted class", "mean"), ("under black", "black")):
        own, theirs = (
            scores[name]["srg"]["mean"] if score == "mean" else scores[name]["by_reference"][score]["srg"]
            for name in ("aha_t0", "grad_cam")
        )
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {named}"))
        assert f"(Grad-CAM {decimals(theirs)})" in line and line.endswith(f"| {decimals(own)} |")
    for named, score in (("2 × 2 mosaics", ""), ("share of the highest quarter", "_rank"), ("maxima there", "_hit")):
        own, theirs = (f"{checks[name][f'grid_2x2{score}']['mean']:.2f}".lstrip("0") for name in ("aha", "grad_cam"))
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {named}"))
        assert f"(Grad-CAM {theirs})" in line and line.endswith(f"| {own} |")


def test_the_results_give_the_second_run_of_the_main_command():
    results = " ".join((ROOT / "docs/results.md").read_text().split())
    scores = json.loads((RESULTS / "embedded/repeat.json").read_text())["scores"]["predicted"]
    srg = {name: f"{row['srg']['mean']:.3f}"[1:] for name, row in scores.items()}
    gap = {name: f"{value:.3f}"[1:] for name, value in scores["aha_hybrid"]["aha_t0_minus_this"].items()}
    assert (
        f"one pass {srg['aha_t0']}, five steps {srg['aha_t5']}, hybrid {srg['aha_hybrid']} (below one pass by "
        f"{gap['mean']} [{gap['low']}, {gap['high']}]), RISE {srg['rise']}, "
        f"Integrated Gradients {srg['integrated_gradients']}, and every other method at least .15 below one pass."
    ) in results
    named = {"rise", "integrated_gradients", "aha_hybrid"}
    others = [row for name, row in scores.items() if name not in named and not name.startswith("aha_t")]
    assert others and all(row["aha_t0_minus_this"]["mean"] > 0.15 for row in others)


def test_what_the_pages_say_of_the_drawn_objects_is_committed():
    results, shortcuts = (
        " ".join((ROOT / f"docs/{page}.md").read_text().split()) for page in ("results", "find-a-shortcut")
    )
    found = json.loads((RESULTS / "embedded/evaluation.json").read_text())
    gaps = {name: found["scores"]["predicted"][name]["aha_t0_minus_this"] for name in ("aha_t5", "aha_hybrid")}
    refined, hybrid = ([decimals(-gap[one]) for one in ("mean", "high", "low")] for gap in gaps.values())
    assert "refinement steps** add {} [{}, {}],".format(*refined) in results
    assert "hybrid mode adds {} [{}, {}] here".format(*hybrid) in results
    assert f"on the object ({found['localisation']['aha_t5']['energy']['mean'] * 100:.0f} %)" in results
    table = pd.read_csv(RESULTS / "embedded/tradeoff.csv")
    steps = table[table.method == "aha"].set_index(["setting", "steps"])
    assert (steps.minus_one_pass_low[steps.index.get_level_values("steps") > 0] > 0).all()
    ten = steps.loc["S = 3", 10]
    rise = [decimals(one) for one in (ten.minus_rise, ten.minus_rise_low, ten.minus_rise_high)]
    assert f"ten ({ten.passes:.0f}) {decimals(ten.srg)}, {rise[0]} [{rise[1]}, {rise[2]}] above RISE" in results
    moved = pd.read_csv(RESULTS / "embedded/transfer.csv").set_index(["target", "method", "steps"])
    for step, said in (
        (0, "{} for {} in one pass (−{} [−{}, −{}])"),
        (5, "{} for {} after five steps (−{} [−{}, {}])"),
    ):
        own, gap = moved.loc["further", "aha", step], ("minus_fresh", "minus_fresh_low", "minus_fresh_high")
        scores = own.srg, moved.srg["further", "fresh", step], *(abs(own[one]) for one in gap)
        assert said.format(*map(decimals, scores)) in shortcuts
    assert moved.minus_fresh_high["further", "aha", 0] < 0 < moved.minus_fresh_high["further", "aha", 5]
    alarms = pd.read_csv(RESULTS / "embedded/shortcut.csv").query("target == 'poisoned' and method == 'aha'")
    assert (alarms.found == 1).all() and (alarms.predicted_alarms[alarms.group == "all"] <= 0.02).all()
    share = {key: f"{100 * one:.0f} %" for key, one in alarms.set_index(["group", "steps"]).false_alarms.items()}
    own, other = ([share[group, step] for step in (0, 5, 10)] for group in ("own", "other"))
    assert "with a disc, in {} at T = 0, {} at T = 5 and {} at T = 10.".format(*own) in shortcuts
    photographs = pd.read_csv(RESULTS / "vit-tiny-imagenet/shortcut-mosaics.csv").query(
        "group == 'all' and method == 'aha'"
    )
    marked, clean = (photographs[photographs.target == name] for name in ("poisoned", "clean"))
    assert len(marked) == 6 and (marked.found == 1).all() and (marked.false_alarms * marked.images == 1).all()
    assert len(clean) == 6 and not clean[["found", "false_alarms"]].any(axis=None)
    assert re.search(r"it does in {}, {} \[\d+, \d+\] and {}:".format(*other), shortcuts)


def units_table() -> str:
    """SRG by four grains, POS and NEG by two."""
    table = pd.read_csv(RESULTS / "vit-tiny-imagenet/units.csv").set_index(["method", "unit"])
    lines = [
        "| method | pixels | patches | aside | scattered | POS | by patches | NEG | by patches |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(table.index.get_level_values("method")):
        srg = [f"{table.srg[name, unit]:.3f}" for unit in ("pixels", "patches", "shifted", "scattered")]
        kept = [f"{table[kind][name, unit]:.1f}" for kind in ("pos", "neg") for unit in ("pixels", "patches")]
        lines.append(f"| `{name}` | {' | '.join(srg + kept)} |")
    return "\n".join(lines)


def trials(name: str, settings: list[str], compared: dict[str, int]) -> Iterator[tuple[str, tuple, pd.DataFrame, str]]:
    """Of each setting of each sample: target, values, photographs, and cells of its differences (column: decimals)
    from the sample's first setting, with standard errors."""
    for profile, target in (("vit-tiny-imagenet", "ViT-Tiny"), ("mobilenetv2-imagenet", "MobileNetV2")):
        for _, sample in pd.read_csv(RESULTS / profile / f"{name}.csv").groupby("sample"):
            first = None
            for chosen, rows in sample.groupby(settings, sort=False):
                mine = rows.set_index("photograph")
                first = mine if first is None else first
                gaps = [(mine[column] - first[column], digits) for column, digits in compared.items()]
                shown = ["" if mine is first else f"{one.mean():+.{n}f} ± {one.sem():.{n}f}" for one, n in gaps]
                yield target, chosen, mine, " | ".join(shown)


def cells_table() -> str:
    """Trials of refinement's cells; each sample's first setting is what its others are compared with."""
    lines = [
        "| target | photographs | T | cells | start | lr | τ | SRG | difference | under black | NEG |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    settings = ["grid", "start_grid", "start_weight", "lr", "tau", "steps"]
    for target, chosen, mine, gaps in trials("refinement-cells", settings, {"srg": 3, "black": 3, "neg": 1}):
        grid, start, weight, lr, tau, steps = chosen
        begins = f"{start}, {weight}" if start else "one pass"
        lines.append(
            f"| {target} | {len(mine)} | {steps} | {grid} | {begins} | {lr} | {tau} | {mine.srg.mean():.3f} | {gaps} |"
        )
    return "\n".join(lines)


def steps_table() -> str:
    """Trials of refinement's steps, likewise."""
    lines = [
        "| target | photographs | normalised | lr | start | τ | SRG | difference | under black | NEG | roughness |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    compared = {"srg": 3, "black": 3, "neg": 1}
    for target, chosen, mine, gaps in trials("refinement-steps", ["step", "lr", "start_weight", "tau"], compared):
        step, lr, weight, tau = chosen
        lines.append(
            f"| {target} | {len(mine)} | {step} | {lr} | {weight} | {tau} | {mine.srg.mean():.3f} | {gaps} "
            f"| {mine.roughness.mean():.3f} |"
        )
    return "\n".join(lines)


@pytest.mark.parametrize(("table", "made"), [("cells", cells_table), ("steps", steps_table)])
def test_tables_of_the_trials_are_the_committed_ones(table, made):
    page = (ROOT / "docs/designs.md").read_text()
    assert page.split(f"<!-- table {table} -->\n")[1].split("\n<!-- end -->")[0] == made()


def refinement_table() -> str:
    """Trials of refinement on drawn objects."""
    lines = ["| setting | SRG | difference | under black | POS | NEG |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in pd.read_csv(RESULTS / "embedded/refinement.csv").itertuples():
        gap = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        shown = "" if row.setting == "preset" else gap
        lines.append(f"| {row.setting} | {row.srg:.3f} | {shown} | {row.black:.3f} | {row.pos:.1f} | {row.neg:.1f} |")
    return "\n".join(lines)


def designs_table() -> str:
    lines = ["| part | setting | SRG | difference from the preset |", "| --- | --- | ---: | ---: |"]
    rows = pd.read_csv(RESULTS / "embedded/designs.csv")
    for row in rows[~rows.default.duplicated() | ~rows.default].itertuples():
        gap = "" if row.default else f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        part = "" if row.default else row.family
        lines.append(f"| {part} | {row.setting} | {row.srg:.3f} | {gap} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("page", "table", "made"),
    [
        ("results", "classes", classes_table), ("results", "references", references_table),
        ("metrics", "units", units_table),
        ("designs", "designs", designs_table), ("designs", "refinement", refinement_table),
        ("metrics", "mosaics", mosaics_table), ("metrics", "costs", costs_table),
        ("results", "measures", measures_table), ("results", "accuracy", accuracy_table),
    ],
)  # fmt: skip
def test_tables_of_the_pages_are_the_committed_ones(page, table, made):
    text = (ROOT / f"docs/{page}.md").read_text()
    assert text.split(f"<!-- table {table} -->\n")[1].split("\n<!-- end -->")[0] == made()


@pytest.mark.parametrize(
    ("family", "words"), [("relaxation", "all eight lie within {}"), ("temperature", "all six schedules are within {}")]
)
def test_spread_within_a_family_of_the_study(family, words):
    table = pd.read_csv(RESULTS / "study/relaxation.csv")
    srg = table[table.family == family].srg
    page = " ".join((ROOT / "docs/study-relaxation.md").read_text().split())
    assert words.format(decimals(srg.max() - srg.min())) in page


def test_losses_in_the_study_are_the_tables():
    table = pd.read_csv(RESULTS / "study/relaxation.csv").set_index(["family", "setting"])
    fixed = table.loc[("fractions", "fixed grid of 16")]
    page = " ".join((ROOT / "docs/study-relaxation.md").read_text().split())
    interval = f"{decimals(-fixed.difference)} [{decimals(-fixed.difference_high)}, {decimals(-fixed.difference_low)}]"
    assert f"fixed grid of 16 loses {interval}" in page
    assert f"eight lose {decimals(-table.loc[('fractions', '8 per direction')].difference)}" in page
    coarse = sorted(-table.loc[("grid", name)].difference for name in ("7 to 7", "7 to 14"))
    assert f"7–14 lose {decimals(coarse[0])}–{decimals(coarse[1])}" in page


def test_ratios_of_the_ranking_page_are_the_tables():
    table = pd.read_csv(RESULTS / "bench/ranking.csv")
    page = " ".join((ROOT / "docs/ranking.md").read_text().split())
    at = table[(table.cells == 784) & (table.tau == table.tau.min())].set_index("method")
    for method in ("soft_topk", "lapsum", "transport"):
        time = at.seconds["gumbel_sinkhorn"] / at.seconds[method]
        memory = at.peak_mb["gumbel_sinkhorn"] / at.peak_mb[method]
        assert f"| `{method}` | {time:,.0f}× | {memory:,.0f}× |" in page
    pixels = table[(table.cells == 50176) & (table.tau == table.tau.min())].set_index("method")
    for method in ("soft_topk", "transport"):
        assert pixels.seconds[method] < 1
        assert pixels.peak_mb[method] < 300


# --- the pages themselves: the site builds from what is here, loads nothing, and what it says to type works

PAGES = {file.name: file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def blocks(text: str, language: str) -> list[str]:
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def commands() -> list[str]:
    """Every line of the pages that starts with `aha`."""
    lines = [line for text in PAGES.values() for block in blocks(text, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines if line.startswith("aha ")))


def test_the_site_builds_offline_and_loads_nothing(tmp_path):
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"?(https?:[^\" >]+)", page.read_text()
        )
        assert not [url for url in loaded if "canonical" not in url], page
    method, results = ((tmp_path / f"site/{name}.html").read_text() for name in ("method", "results"))
    assert method.count("<math") == (ROOT / "docs/method.md").read_text().count("```math") > 5
    assert "<code>aha_t0</code>" in results and "```" not in method


def test_every_command_and_flag_exists():
    root = typer.main.get_command(app)
    assert len(commands()) >= 25
    for line in commands():
        words = shlex.split(re.split(r" && | = ", line)[0])[1:]
        command = root
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {"--help"} | {
            flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.fixture
def at_home(workspace, change):
    """A workspace in which the pages' examples work: an explainer, photographs, classes of those names."""
    from tests.stages.test_studies import save_untrained

    change("resources", threads=1)
    ctx = Context.create(workspace, device="cpu")
    facts = json.loads((ctx.paths.target / "target.json").read_text())
    facts["class_names"] = ["beagle", "basset", "NAME", "tabby", *facts["class_names"][4:]]
    (ctx.paths.target / "target.json").write_text(json.dumps(facts))
    save_untrained(ctx, ctx.paths.explainer, seed=0)
    for folder in ("pets", DEFAULT):  # a folder of the pretrained one's name comes before it
        Explainer.load(ctx.paths.outputs).save(folder)
    torch.save({"state_dict": timm.create_model("resnet50", num_classes=12).state_dict()}, "model_best.pth.tar")
    shutil.copy(ctx.paths.target / "model.safetensors", "mine.safetensors")
    for name in ("photo.jpg", "dog.jpg", "holiday/a.jpg", "more/b.jpg", "images/class/c.jpg"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(workspace / name)
    return ctx


def test_the_pages_explain_commands_run(at_home):
    lines = [line for line in commands() if line.startswith("aha explain") and "models:/" not in line]
    assert len(lines) >= 8
    for line in lines:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line)[1:])
        assert stop.value.code == 0, line


@pytest.mark.parametrize("page", ["start.md", "own-model.md"])
def test_the_pages_python_runs(page, at_home):
    target = Target.load(at_home.paths.target)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scopes = []
    for block in blocks(PAGES[page], "python"):
        scope = {"images": x, "model": target, "names": target.class_names, "Explainer": Explainer}
        exec(compile(block, page, "exec"), scope)
        scopes.append(scope)
    assert [scope["maps"].shape for scope in scopes if "maps" in scope] == [(1, 1, 32, 32)]
