"""`aha bench methods`: exact passes, time and memory of every method, in processes of their own."""

import pandas as pd
import pytest

from stages import bench_methods
from stages.bench import bench_context
from stages.context import Context
from tests.stages.conftest import untrained_explainer


@pytest.fixture
def ctx(workspace, change) -> Context:
    change("evaluate", methods=["rise"], rise_masks=6)
    change("refine", steps=2, fractions=1, references=["black"], hybrid=False)
    ctx = bench_context(None, None, threads=1)
    untrained_explainer(ctx)
    return ctx


def test_every_method_has_its_passes_and_costs(ctx, tmp_path):
    bench_methods.run(ctx, tmp_path / "bench", images=3)
    table = pd.read_csv(tmp_path / "bench" / "methods.csv").set_index("method")
    assert list(table.index) == ["aha_t0", "aha_hybrid", "aha_t2", "rise"]
    forward, gradients = table["forward"], table["gradients"]
    assert forward[["aha_t0", "aha_hybrid", "rise"]].tolist() == [1, 2, 6]
    assert gradients[["aha_t0", "aha_hybrid", "rise"]].tolist() == [0, 1, 0]
    assert forward["aha_t2"] > forward["aha_hybrid"] and gradients["aha_t2"] > 1
    assert (table["seconds"] > 0).all() and (table["peak_mb"] >= 0).all()
    assert (table["cost"] > 0).all()
    assert (tmp_path / "bench" / "methods.json").is_file()
