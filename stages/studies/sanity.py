"""`aha study sanity`: do maps change when the target's layers are made random, one after the other from the output?

    for each depth k:  Spearman and SSIM of the one-pass map with the intact target's map   (`metrics.randomisation`)

A map that stays the same does not depend on what the target has learnt (Adebayo et al., NeurIPS 2018). The paper's
explainer does not read the target, so its one-pass maps stay the same by construction; it is shown where a folder with
one is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from rich.table import Table
from torch import Tensor, nn

from aha_core.attribution import Explainer
from aha_core.checks import Finite, with_model
from aha_core.figures import sanity_figure, to_png
from aha_core.files import atomic_json
from aha_core.metrics import bootstrap_ci, model_randomisation
from aha_core.metrics.randomisation import parameter_groups
from aha_core.protocols import Attributor
from aha_core.selection import evaluation_indices
from aha_core.targets import Target
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.studies.common import HeldOutImages, around, baselines, cache, clean_explainer, logit_labels
from stages.studies.shortcut import METHODS

MakeMethod = Callable[[Target], Attributor]


def run(
    ctx: Context, out: Path, images: int = 50, depths: int | None = None, paper: Path | None = None,
    methods: tuple[str, ...] = METHODS,
) -> None:  # fmt: skip
    """Randomise, compare, write sanity.csv, .json and .png.

    Args:
        depths: measured steps of the cascade, evenly spread; every group where None.
        paper: folder of an explainer of the paper's preset for the same target.
    """
    ctx.use_all_cores()
    explainer = clean_explainer(ctx)
    target, makers = explainer.target, {"aha": same_network(explainer)}
    if paper is not None:
        makers["paper"] = same_network(clean_explainer(ctx, paper))
    applicable, left_out = baselines(ctx, target, methods)
    makers |= {name: baseline(ctx, name) for name in applicable}
    total = len(logit_labels(ctx, target, "test"))
    held_out = HeldOutImages.read(ctx, target, evaluation_indices(images, total))
    batch = ctx.params.resources.batch_size
    with torch.no_grad():
        classes = torch.cat([target(part.to(ctx.device)).argmax(dim=1).cpu() for part in held_out.x.split(batch)])
    settings: dict[str, object] = {
        "images": len(held_out.indices), "groups": len(parameter_groups(target.model)), "depths": depths,
    }  # fmt: skip
    store = cache(ctx, "sanity", settings, [ctx.paths.explainer, *([paper] if paper else [])])
    rows: list[dict[str, object]] = []
    with ctx.bar() as bar:
        task = bar.add_task("sanity", total=len(makers))
        for name, make in makers.items():
            bar.update(task, description=name[:12])

            def compare(make: MakeMethod = make) -> dict[str, Tensor]:
                """group to Float[2 N]: Spearman, SSIM; the keys sort in the order of the cascade."""
                found = model_randomisation(
                    lambda model: finite(ctx, make, target, model), target.model, held_out.x, classes,
                    ctx.params.seed, depths,
                )  # fmt: skip
                return {
                    f"{depth:03d} {one.group}": torch.stack([one.spearman, one.ssim])
                    for depth, one in enumerate(found, start=1)
                }

            rows += summarised(name, store.tensors(name, compare), ctx)
            bar.advance(task)
    table = pd.DataFrame(rows)
    save_csv(table, out / "sanity.csv")
    save_figure(to_png(sanity_figure(table)), out / "sanity.png")
    checks: dict[str, object] = {"paper": paper is not None, "left_out": left_out}
    atomic_json(out / "sanity.json", facts(ctx) | settings | checks)
    ctx.console.print(summary(table))
    ctx.say(f"wrote sanity.csv, .json and .png to {out}")


def same_network(explainer: Explainer) -> MakeMethod:
    return lambda target: around(explainer, target)


def baseline(ctx: Context, name: str) -> MakeMethod:
    return lambda target: baselines(ctx, target, (name,))[0][name]


def finite(ctx: Context, make: MakeMethod, target: Target, model: nn.Module) -> Finite:
    return Finite(make(with_model(target, model)), ctx.params.resources.batch_size, ctx.device)


def summarised(method: str, found: dict[str, Tensor], ctx: Context) -> list[dict[str, object]]:
    """A row for each depth: means over images with 95 % bootstrap intervals."""
    rows = []
    for key in sorted(found):
        depth, group = key.split(" ", 1)
        row: dict[str, object] = {"method": method, "depth": int(depth), "group": group}
        for name, values in zip(("spearman", "ssim"), found[key], strict=True):
            interval = bootstrap_ci(values.numpy(), ctx.params.evaluate.bootstrap, ctx.params.seed)
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return rows


def summary(table: pd.DataFrame) -> Table:
    """Each method at the first and the last measured depth."""
    shown = Table("method", "random down to", "Spearman", "SSIM", box=None)
    for name, rows in table.groupby("method", sort=False):
        for row in (rows.iloc[0], rows.iloc[-1]):
            shown.add_row(str(name), row.group, f"{row.spearman:.3f}", f"{row.ssim:.3f}")
    return shown
