"""`aha bench methods`: what a map of each method costs, against the target's plain forward pass.

    seconds    per map, of one batch of images (see `aha_core.benchmarks.measure` for how time and memory are taken)
    cost       seconds per map / seconds per image of a plain forward pass of the same batch, mean of before and after
    peak_mb    memory of the whole batch above what was held before
    forward    images that entered the target, per map; gradients: images whose scores were differentiated, per map

Every method has a process of its own, one after the other: none inherits another's memory. Time and memory belong to
the machine, passes do not.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from aha_core.baselines import refusal
from aha_core.benchmarks.measure import in_fresh_process, peak_mb, seconds, timed
from aha_core.config import Params
from aha_core.cost import measured
from aha_core.files import atomic_json
from aha_core.summary import HYBRID, OURS
from aha_core.targets import Target
from stages.bench import facts, save_csv
from stages.context import Context
from stages.images import first_images
from stages.methods import baseline_settings, maker
from stages.paths import Paths

SLOW = 5.0  # seconds of a batch after which one measurement is enough


def run(ctx: Context, out: Path, images: int) -> None:
    """Measure AHA and the configured methods that apply; writes methods.csv and methods.json."""
    target = Target.load(ctx.paths.target)
    config = ctx.params.evaluate
    every = (*config.methods, *config.slow.methods)
    named = [name for name in every if not refusal(name, target, baseline_settings(ctx))]
    names = list(dict.fromkeys([f"{OURS}0", HYBRID, f"{OURS}{ctx.params.refine.steps}", *named]))
    rows = []
    for name in ctx.progress(names, len(names), "methods"):
        job = (ctx.paths.root, ctx.params, ctx.device, ctx.threads, name, images)
        rows.append({"method": name} | in_fresh_process(cost_of, *job, threads=ctx.threads))
    table = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    save_csv(table, out / "methods.csv")
    atomic_json(out / "methods.json", facts(ctx) | {"images": images})
    ctx.console.print(shown(table))
    ctx.say(f"wrote methods.csv and methods.json to {out}")


def cost_of(root: Path, params: Params, device: str, threads: int, name: str, images: int) -> dict[str, float]:
    """The columns above, of one method in this process."""
    ctx = Context(Paths(root), params, 0, device, threads, "", console=Console(quiet=True))
    target = Target.load(ctx.paths.target).to(device)
    dataset, indices = first_images(ctx, images)
    x = dataset.batch(indices)[0].to(device).float() / 255
    where = x.device

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return target(x)

    classes = plain().argmax(dim=1)
    method = maker(ctx, name)(target)
    method.attribute(x[:1], classes[:1])  # sizes of micro-batches, kernels, caches
    before = seconds(plain, where)
    with measured(target) as cost:
        first = timed(lambda: method.attribute(x, classes), where)[1]
    spent = first if first >= SLOW else seconds(lambda: method.attribute(x, classes), where)
    return {
        "seconds": spent / len(x),
        "cost": 2 * spent / (before + seconds(plain, where)),
        "peak_mb": peak_mb(lambda: method.attribute(x, classes), where),
        "forward": cost.forward / len(x),
        "gradients": cost.gradients / len(x),
    }


def in_passes(cost: float) -> str:
    """Three digits, and no power of ten."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def shown(table: pd.DataFrame) -> Table:
    made = Table("method", "ms/map", "plain passes", "peak MB", "forward", "gradients", box=None)
    for row in table.sort_values("seconds").to_dict("records"):
        made.add_row(
            row["method"], f"{1000 * row['seconds']:,.0f}", in_passes(row["cost"]), f"{row['peak_mb']:,.0f}",
            f"{row['forward']:,g}", f"{row['gradients']:,g}",
        )  # fmt: skip
    return made
