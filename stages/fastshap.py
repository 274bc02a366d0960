"""Stage `fastshap`: the learned baseline, AHA's own network and schedule with another loss (`aha_core.fastshap`)."""

from __future__ import annotations

from dataclasses import replace

from aha_core.fastshap import fastshap_loss
from aha_core.files import atomic_json, atomic_text
from stages.context import Context
from stages.outputs import rebuild
from stages.train import save, to_csv, trained, with_start
from stages.training_job import Recipe

FASTSHAP = Recipe("fastshap", fastshap_loss, ("fastshap",), ("fastshap.py", "shapley.py"))


def run(ctx: Context) -> None:
    """Train where `fastshap.train` says so, from random weights; the folder is there either way, as DVC wants it."""
    config = ctx.params.fastshap
    facts = {"trained": config.train, "grid": config.grid}
    if not config.train:
        with rebuild(ctx.paths.fastshap) as out:
            atomic_json(out / "fastshap.json", facts)
        ctx.say("no learned baseline: fastshap.train is false")
        return
    with trained(replace(ctx, params=with_start(ctx.params, None)), FASTSHAP) as done:
        if done is None:
            return
        with rebuild(ctx.paths.fastshap) as out:
            save(ctx, done, out)
            atomic_json(out / "fastshap.json", facts)
            atomic_text(out / "training.csv", to_csv(done.state.curve))
        done.tracker.log_files([ctx.paths.fastshap / "training.csv", ctx.paths.params], "training")
        done.tracker.finish()
    ctx.say(f"trained {ctx.params.train.steps} steps, last loss {done.state.curve[-1]['loss']:.5f}")
