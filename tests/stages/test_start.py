"""The stage `train` with `train.start`: from another explainer's weights."""

import os
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from aha_core.errors import AttributionError, ConfigError, ResourceError
from stages import fastshap, train
from stages.context import Context
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


def test_the_same_training_does_not_run_twice_at_once(ctx, monkeypatch):
    monkeypatch.setattr(train, "Tracker", Quiet)
    monkeypatch.setattr(train, "log", lambda tracker, ctx: None)
    fit = train.fit

    def while_another_starts(*arguments):
        with pytest.raises(ResourceError, match=f"this training runs already, in process {os.getpid()}; wait for it"):
            train.run(replace(ctx, fresh=True))
        return fit(*arguments)

    monkeypatch.setattr(train, "fit", while_another_starts)
    train.run(ctx)
    assert list((ctx.paths.state / "training").iterdir()) == []
    monkeypatch.setattr(train, "fit", fit)
    train.run(ctx)


def test_other_weights_are_another_run(ctx, workspace, monkeypatch):
    monkeypatch.setattr(train, "Tracker", Quiet)
    monkeypatch.setattr(train, "log", lambda tracker, ctx: None)
    runs, fit = [], train.fit

    def noted(job, *rest):
        runs.append((job.storage, job.params.train.start))
        return fit(job, *rest)

    monkeypatch.setattr(train, "fit", noted)
    train.run(ctx)
    (workspace / "first/explainer.safetensors").write_bytes(
        (ctx.paths.explainer / "explainer.safetensors").read_bytes()
    )
    train.run(ctx)
    assert runs[0][0] != runs[1][0]
    assert runs[0][1] == str(workspace / "first")  # absolute, for workers


def test_the_learned_baseline_starts_from_random_weights(ctx, change, monkeypatch):
    change("fastshap", train=True)
    monkeypatch.setattr(train, "Tracker", Quiet)
    starts, fit = [], train.fit
    monkeypatch.setattr(train, "fit", lambda job, *rest: (starts.append(job.params.train.start), fit(job, *rest))[1])
    fastshap.run(Context.create(ctx.paths.root, workers=0))
    assert starts == [""]


def test_nothing_to_start_from_is_said_before_anything_starts(ctx, workspace, monkeypatch):
    (workspace / "first").rename(workspace / "elsewhere")
    monkeypatch.setattr(train, "fit", None)
    with pytest.raises(AttributionError, match="train.start = .first.: no explainer there"):
        train.run(ctx)


@pytest.mark.parametrize("start", ["outputs", "outputs/explainer"])
def test_its_own_output_is_no_start(ctx, change, start):
    change("train", start=start)
    with pytest.raises(ConfigError, match=f"train.start = '{start}' is what training replaces"):
        train.run(Context.create(ctx.paths.root, workers=0))


def test_another_network_is_refused_before_anything_starts(ctx, change, monkeypatch):
    levels = ctx.params.explainer.levels
    change("explainer", levels=[*levels[:-1], 0.95])
    monkeypatch.setattr(train, "fit", None)
    with pytest.raises(AttributionError, match="another network than the section `explainer`"):
        train.run(Context.create(ctx.paths.root, workers=0))
