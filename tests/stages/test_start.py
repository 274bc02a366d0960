"""The stage `train` with `train.start`: from another explainer's weights."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from aha_core.errors import AttributionError
from stages import train
from stages.context import Context
from stages.train import AHA, start_folder, with_start
from stages.training_job import job_name
from tests.stages.conftest import untrained_explainer
from tests.stages.quiet import Quiet


@pytest.fixture
def ctx(workspace, change) -> Context:
    """Ready to start, with hardly any learning, from the explainer in `first`, a path relative to the workspace."""
    change("train", steps=2, lr=1e-9, weight_decay=0, start="first")
    ctx = Context.create(workspace, workers=0)
    untrained_explainer(replace(ctx, params=ctx.params.model_copy(update={"seed": 7})))
    ctx.paths.explainer.rename(workspace / "first")
    return ctx


def weights_of(folder):
    return load_file(folder / "explainer.safetensors")


def test_training_goes_on_from_the_weights(ctx, workspace, monkeypatch):
    monkeypatch.setattr(train, "Tracker", Quiet)
    monkeypatch.setattr(train, "log", lambda tracker, ctx: None)
    train.run(ctx)
    first, last = weights_of(workspace / "first"), weights_of(ctx.paths.explainer)
    assert all(value.allclose(last[name], atol=1e-6) for name, value in first.items())
    untrained_explainer(ctx)  # of the seed
    assert not all(value.allclose(last[name], atol=1e-3) for name, value in weights_of(ctx.paths.explainer).items())


def test_other_weights_are_another_run(ctx, workspace):
    folder = start_folder(ctx.params)
    assert folder == workspace / "first"

    def name():
        return job_name(ctx.params, AHA, ctx.paths.data, ctx.paths.target, [folder / "explainer.safetensors"])

    before = name()
    untrained_explainer(ctx)
    (ctx.paths.explainer / "explainer.safetensors").replace(folder / "explainer.safetensors")
    assert name() != before


def test_nothing_to_start_from_is_said_before_anything_starts(ctx, workspace, monkeypatch):
    (workspace / "first").rename(workspace / "elsewhere")
    monkeypatch.setattr(train, "fit", None)
    with pytest.raises(AttributionError, match="no explainer in first"):
        train.run(ctx)


def test_random_weights_again(ctx):
    assert with_start(ctx.params, None).train.start == "" and start_folder(with_start(ctx.params, None)) is None
