"""Benchmarks measure what they say: known memory, known times, a gradient that is known in closed form."""

import time

import pandas as pd
import pytest
import torch

from aha_core.benchmarks.correlation import soft_hard_correlation
from aha_core.benchmarks.hard_gradient import estimate
from aha_core.benchmarks.measure import available_gb, in_fresh_process, peak_mb, seconds
from aha_core.benchmarks.passes import benchmark_passes
from aha_core.benchmarks.ranking import benchmark, measure_cost
from aha_core.benchmarks.training import HeldOut, Trainer, quality_over_time, step_cost, steps_within
from aha_core.config import RankingConfig, parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_synthetic
from aha_core.errors import ResourceError
from aha_core.figures import quality_figure, ranking_figure, to_png
from aha_core.masked_passes import MaskedPasses
from aha_core.ranking import make_relaxation
from aha_core.targets import Target, create_model
from tests.conftest import small_params

CPU = torch.device("cpu")
CONFIG = RankingConfig.model_validate(small_params()["ranking"])


def test_peak_memory_is_that_of_the_largest_tensor():
    torch.ones(2**20).sum()
    assert peak_mb(lambda: torch.ones(64 * 2**18).sum(), CPU) == pytest.approx(64, abs=4)


def test_a_process_over_its_limit_says_so_and_other_errors_pass():
    with pytest.raises(ResourceError, match="does not fit into 1 GB"):
        in_fresh_process(torch.ones, 2**30, threads=1, memory_gb=1.0)
    with pytest.raises(TypeError):
        in_fresh_process(torch.ones, "much", threads=1)
    assert available_gb() > 0.1


def test_seconds_is_a_median_without_the_first_call():
    naps = iter([0.3, 0.01, 0.02, 0.01, 0.01, 0.01])
    assert seconds(lambda: time.sleep(next(naps)), CPU) < 0.1


def test_cost_row_of_a_method_and_a_skipped_one():
    cost = measure_cost(CONFIG, "soft_topk", 0.15, 49, "cpu", seed=0)
    assert cost.seconds > 0
    assert cost.residual < 1e-3
    assert 0.02 < cost.soft_hard < 0.1


def test_table_says_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("aha_core.benchmarks.ranking.RELAXATIONS", {"soft_topk": 0, "gumbel_sinkhorn": 0})
    monkeypatch.setattr("aha_core.benchmarks.ranking.available_gb", lambda: 2.0)
    rows = pd.DataFrame(benchmark(CONFIG, (0.15,), "cpu", 1, seed=0, cells=(50176,))).set_index("method")
    assert rows.skipped["gumbel_sinkhorn"] == "does not fit into 1.7 GB"
    assert rows.seconds["soft_topk"] < 5
    assert rows.peak_mb["soft_topk"] < 300


class Linear(Target):
    """p_1 = 0.5 + 0.3 (mean brightness of the left half - that of the right half)."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, x):
        left, right = x[..., :8].mean(dim=(1, 2, 3)), x[..., 8:].mean(dim=(1, 2, 3))
        p = 0.5 + 0.3 * (left - right)
        return torch.stack([1 - p, p], dim=1).log()


def test_hard_gradient_points_where_the_score_lives_and_soft_gradients_agree():
    x = torch.ones(1, 3, 16, 16)
    problem = estimate(
        MaskedPasses(Linear(), "fp32", 1.0), x, torch.ones(1, dtype=torch.long), torch.zeros_like(x), grid=4, tau=0.3,
        pairs=400, budgets=4, seed=0,
    )  # fmt: skip
    towards = -problem.halves.sum(dim=0).view(4, 4)  # of lower loss
    assert towards[:, :2].min() > 0 > towards[:, 2:].mean(dim=0).max()
    good = problem.agreement(make_relaxation(CONFIG, 0.3, 16))
    assert good.cosine > 0.85
    assert good.ceiling > 0.85


def test_soft_scores_follow_hard_ones_more_closely_as_tau_falls():
    source = torch.Generator().manual_seed(0)
    x = torch.rand(20, 3, 16, 16, generator=source)
    maps = torch.randn(20, 1, 16, 16, generator=source)
    classes, blank = torch.ones(20, dtype=torch.long), torch.zeros_like(x)
    passes = MaskedPasses(Linear(), "fp32", 1.0)
    found = [
        soft_hard_correlation(passes, x, classes, blank, maps, CONFIG, tau, grid=4, fractions=4, seed=0)
        for tau in (2.0, 0.3, 1e-3)
    ]
    assert found[0].scores < found[1].scores < found[2].scores
    assert found[2].scores > 0.9999
    assert abs(found[2].bias_deletion) < 1e-3
    assert found[0].deletion < 0.99


def test_passes_are_timed_by_variant_and_the_target_is_left_alone(monkeypatch):
    torch.manual_seed(0)
    target = Target("vit_convstem_mini", create_model("vit_convstem_mini", 8, 32), 32, [str(i) for i in range(8)])
    before = target(torch.ones(1, 3, 32, 32))
    rows = pd.DataFrame(benchmark_passes(target, 2, CPU, compiled=False, seed=0)).set_index("variant")
    assert len(rows) == 6
    assert "fp32, channels last, folded" in rows.index, "this classifier has batch norms"
    assert (rows[["forward_ms", "with_gradient_ms"]] > 0).all().all()
    assert torch.equal(target(torch.ones(1, 3, 32, 32)), before)
    monkeypatch.setattr("aha_core.benchmarks.passes.torch.compile", lambda model: Refusing())
    last = list(benchmark_passes(target, 2, CPU, compiled=True, seed=0))[-1]
    assert last == {"variant": "bf16, compiled", "skipped": "RuntimeError: no compiler"}


class Refusing(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("no compiler\nwith details")


@pytest.fixture(scope="module")
def trainer_of(tmp_path_factory):
    params = parse_params(small_params())
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(params.data, params.seed, folder)
    torch.manual_seed(0)
    target = Target("vit_convstem_mini", create_model("vit_convstem_mini", 8, 32), 32, [str(i) for i in range(8)])

    def make(changes):
        chosen = params.model_copy(update=changes)
        return Trainer.create(chosen, target, PreparedImages(folder, "train", "flip"), list(range(8)), "cpu")

    return params, folder, make


def test_step_cost_counts_masked_passes_per_image(trainer_of):
    params, _, make = trainer_of
    train = params.train.model_copy(update={"steps": 20})
    cost = step_cost(make({"train": train}), steps=2)
    assert cost.masked_passes == 2 * params.objective.fractions
    assert 0 < cost.outside < 1
    paper = {"sampling": "grid", "fractions": 5, "classes_per_image": "all", "classes": ("predicted", "second")}
    objective = params.objective.model_copy(update=paper)
    assert step_cost(make({"train": train, "objective": objective}), steps=1).masked_passes == 3 * 2 * 2
    assert steps_within(params, cost, minutes=1).train.steps == int(60 * cost.images_per_second / 4)


def test_quality_over_time_scores_held_out_images_and_ends_with_the_schedule(trainer_of):
    params, folder, make = trainer_of
    trainer = make({})
    images, _ = PreparedImages(folder, "test").batch(range(5))
    held_out = HeldOut.create(params, trainer.passes.target, images.float() / 255)
    rows = list(quality_over_time(trainer, held_out, minutes=5, every=0.01))
    assert rows[-1]["step"] == params.train.steps
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert all(-1 <= row["low"] <= row["srg"] <= row["high"] <= 1 for row in rows)


def test_figures_of_measured_and_skipped_rows():
    rows = pd.DataFrame(
        [
            {"cells": 49, "tau": 0.15, "method": "soft_topk", "batch": 8, "seconds": 0.01, "peak_mb": 1.0,
             "soft_hard": 0.05, "cosine": 0.7, "ceiling": 0.9},
            {"cells": 196, "tau": 0.15, "method": "sinkhorn", "batch": 8, "skipped": "does not fit"},
        ]
    )  # fmt: skip
    quality = pd.DataFrame([{"preset": "ours", "seconds": s, "srg": 0.1, "low": 0, "high": 0.2} for s in (10, 20)])
    for figure in (ranking_figure(rows), quality_figure(quality, {"ours": "AHA"})):
        assert to_png(figure).startswith(b"\x89PNG")
